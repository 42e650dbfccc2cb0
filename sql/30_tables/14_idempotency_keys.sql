create table payments.idempotency_keys (
    key text primary key,
    user_id uuid,
    request_hash text not null,
    status text not null,
    response jsonb,
    claim bigint not null default 1,
    leased_until timestamptz not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint idempotency_keys_key_is_short check (length(key) between 1 and 300),
    constraint idempotency_keys_status_is_known check (status in ('pending', 'completed', 'failed'))
);

comment on table payments.idempotency_keys is
'Requests that must have their effect once, with the answer that a repeat gets.';
comment on column payments.idempotency_keys.claim is 'Number of the holder; a take-over makes the next one.';
comment on column payments.idempotency_keys.leased_until is
'A pending request whose holder has not finished by then may be taken over: it has crashed.';

-- Reader: cleanup_idempotency_keys.
create index idempotency_keys_by_age on payments.idempotency_keys (updated_at);

alter table payments.idempotency_keys enable row level security;
revoke all on table payments.idempotency_keys from public, anon, authenticated, service_role;
