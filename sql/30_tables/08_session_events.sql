-- No foreign key to the session: the audit trail outlives it. The key leads with the session, its only reader's filter.
create table payments.session_events (
    session_id uuid not null,
    id bigint generated always as identity,
    from_status text not null,
    to_status text not null,
    source text not null,
    reason text,
    detail text,
    occurred_at timestamptz,
    created_at timestamptz not null,
    primary key (session_id, id),
    constraint session_events_source_is_known check (
        source in ('client', 'webhook', 'verify', 'return', 'reconcile', 'cron', 'admin')
    )
);

comment on table payments.session_events is
'Audit trail: one row for every change of a checkout session. Append-only; kept for settings.audit_retention.';
comment on column payments.session_events.occurred_at is 'When the provider says it happened; created_at is our clock.';
comment on column payments.session_events.detail is
'What operators need to know and buyers need not: a handler''s error.';

create trigger session_events_are_append_only
before update or truncate on payments.session_events
for each statement execute function payments.forbid_change();

create trigger session_events_are_kept
after delete on payments.session_events
referencing old table as removed
for each statement execute function payments.keep_audit_trail();

alter table payments.session_events enable row level security;
revoke all on table payments.session_events from public, anon, authenticated, service_role;
