-- No foreign key to the session: late money for a deleted user must still find its attempt.
create table payments.attempts (
    number bigint primary key generated always as identity,
    session_id uuid not null,
    provider text not null,
    reference text not null,
    status text not null default 'open',
    provider_session_id text,
    checkout_url text,
    error_code text,
    error_message text,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    reconcile_at timestamptz,
    reconcile_tries int not null default 0,
    constraint attempts_reference_is_unique unique (reference),
    constraint attempts_status_is_known check (status in ('open', 'processing', 'failed', 'expired', 'cancelled'))
) with (fillfactor = 80);

comment on table payments.attempts is
'One page opened at a provider for a session. Stored before the page is opened (guarantee 9).';
comment on column payments.attempts.number is 'Small integer name of the attempt; Click needs one below 2^31.';
comment on column payments.attempts.reference is
'The only thing providers ever see of us: opaque, unique, free of user data.';
comment on column payments.attempts.status is
'The last word of the provider on this page. It only advances: open, processing, then failed, expired or cancelled; '
'but one that failed before it had a page is open again once it gets one. Money is in payments.captures, not here.';
comment on column payments.attempts.reconcile_at is
'When the provider is asked about this page next; null when there is nothing left to ask.';

-- Readers: claim_sessions_to_reconcile, payment_health.
create index attempts_to_reconcile on payments.attempts (reconcile_at) where reconcile_at is not null;

-- Reader: apply_payment_outcome, when a provider names its own session only.
create unique index attempts_one_per_provider_session
on payments.attempts (provider, provider_session_id)
where provider_session_id is not null;

-- Readers: other_pages, apply_page_outcome.
create index attempts_by_session on payments.attempts (session_id);

alter table payments.attempts enable row level security;
revoke all on table payments.attempts from public, anon, authenticated, service_role;
