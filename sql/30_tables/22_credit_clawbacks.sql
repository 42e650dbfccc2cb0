create table payments.credit_clawbacks (
    session_id uuid primary key,
    user_id uuid not null,
    owed bigint not null,
    taken bigint not null,
    changes int not null,
    updated_at timestamptz not null,
    constraint credit_clawbacks_take_no_more_than_is_owed check (taken between 0 and owed)
);

comment on table payments.credit_clawbacks is
'Credits that refunds of a session took back. owed - taken is the shortfall: what the user had spent already.';
comment on column payments.credit_clawbacks.changes is 'Entries made so far; numbers their sources.';

alter table payments.credit_clawbacks enable row level security;
revoke all on table payments.credit_clawbacks from public, anon, authenticated, service_role;
