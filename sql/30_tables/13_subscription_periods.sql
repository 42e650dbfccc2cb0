-- Is to payment_subscriptions what credit entries are to balances: the unique effect of one purchase.
create table payments.subscription_periods (
    session_id uuid primary key,
    user_id uuid not null,
    tier text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    created_at timestamptz not null,
    cut interval,
    constraint subscription_periods_end_after_they_start check (ends_at >= starts_at)
);

comment on table payments.subscription_periods is 'The period that each paid session added to a subscription.';
comment on column payments.subscription_periods.cut is
'How much of it a full refund took away; null while nothing is.';

alter table payments.subscription_periods enable row level security;
revoke all on table payments.subscription_periods from public, anon, authenticated, service_role;
