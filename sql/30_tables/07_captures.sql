-- No foreign key to the session: captures outlive sessions and users.
create table payments.captures (
    provider text not null,
    provider_payment_id text not null,
    session_id uuid not null,
    attempt_number bigint,
    provider_session_id text,
    amount bigint not null,
    currency text not null,
    disposition text not null,
    paid_at timestamptz not null,
    created_at timestamptz not null,
    -- guarantee 2: a payment id never pays two sessions
    primary key (provider, provider_payment_id),
    constraint captures_disposition_is_known check (
        disposition in ('settled', 'duplicate', 'amount_mismatch', 'currency_mismatch', 'orphaned')
    ),
    constraint captures_amount_is_not_negative check (amount >= 0)
);

comment on table payments.captures is 'Money proven received, once per provider payment, for ever. Minor units.';
comment on column payments.captures.disposition is
'What it did: settled its session, came a second time (duplicate), was the wrong money (a mismatch), or came for a '
'session whose user was deleted (orphaned).';

-- Guarantee 3: one capture at the most pays a session; any number of others may stand beside it. Readers: refunds.
create unique index captures_one_settles_a_session
on payments.captures (session_id, (case when disposition = 'settled' then true end));

-- Reader: recognise_capture, for callers that know the provider's page only.
create index captures_by_page on payments.captures (provider, provider_session_id)
where provider_session_id is not null;

-- Reader: current_incidents.
create index captures_orphaned on payments.captures (created_at) where disposition = 'orphaned';

create trigger captures_are_never_deleted
before delete or truncate on payments.captures
for each statement execute function payments.forbid_change();

alter table payments.captures enable row level security;
revoke all on table payments.captures from public, anon, authenticated, service_role;
