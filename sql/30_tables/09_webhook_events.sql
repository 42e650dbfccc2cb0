create table payments.webhook_events (
    provider text not null,
    event_id text not null,
    type text not null,
    payload jsonb not null,
    status text not null,
    session_id uuid,
    error text,
    deliveries int not null default 1,
    received_at timestamptz not null,
    handled_at timestamptz,
    primary key (provider, event_id),
    constraint webhook_events_status_is_known check (status in ('handled', 'failed', 'dead')),
    constraint webhook_events_handled_ones_have_a_time check ((status = 'handled') = (handled_at is not null))
);

comment on table payments.webhook_events is
'Provider notifications whose signature was valid. handled: applied in the same transaction; failed: the provider '
'will send it again; dead: a person must look.';
comment on column payments.webhook_events.error is 'Stable reason why it could not be applied (docs/errors.md).';

-- Reader: payment_health.
create index webhook_events_not_handled on payments.webhook_events (received_at) where status <> 'handled';

-- Readers: checkout_session_story, purge_old_payment_data (ids of sessions are time-ordered).
create index webhook_events_by_session on payments.webhook_events (session_id) where session_id is not null;

alter table payments.webhook_events enable row level security;
revoke all on table payments.webhook_events from public, anon, authenticated, service_role;
