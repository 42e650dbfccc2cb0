create table public.payment_subscriptions (
    user_id uuid not null references auth.users (id) on delete cascade,
    tier text not null,
    started_at timestamptz not null,
    ends_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (user_id, tier),
    constraint payment_subscriptions_end_after_they_start check (ends_at >= started_at)
);

comment on table public.payment_subscriptions is
'Until when a user holds a tier. It is active while now() < ends_at; buying again extends it.';

alter table public.payment_subscriptions enable row level security;
revoke all on table public.payment_subscriptions from public, anon, authenticated, service_role;
grant select on table public.payment_subscriptions to authenticated, service_role;

create policy payment_subscriptions_are_read_by_their_user on public.payment_subscriptions
for select to authenticated
using (user_id = (select auth.uid()));
