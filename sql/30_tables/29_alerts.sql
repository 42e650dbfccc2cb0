-- An outbox of its own: what is told here must not wait behind letters, and is never given up.
create table payments.alerts (
    id bigint primary key generated always as identity,
    kind text not null,
    subject text not null,
    detail text not null,
    opened_at timestamptz not null,
    seen_at timestamptz not null,
    closed_at timestamptz,
    due_at timestamptz not null,
    tries int not null default 0,
    error text,
    told_at timestamptz,
    constraint alerts_kind_is_known check (
        kind in (
            'broken_invariant', 'dead_letters', 'dead_webhooks', 'failed_verifications', 'orphaned_money',
            'signature_failures', 'stale_heartbeat'
        )
    )
) with (fillfactor = 80);

comment on table payments.alerts is
'Incidents, each told to the operator once. One that was closed and comes back is a new one. No personal data.';
comment on column payments.alerts.subject is
'What it is about: a provider (with the reason, of dead webhooks), a kind of letter, a worker, an invariant.';
comment on column payments.alerts.seen_at is 'When the incident was last seen to last.';
comment on column payments.alerts.due_at is
'When it may be claimed to be told; a claim moves it on, so that a crashed process''s comes back.';

create unique index alerts_one_open_incident on payments.alerts (kind, subject) where closed_at is null;

-- Reader: claim_alerts.
create index alerts_untold on payments.alerts (due_at) where told_at is null;

alter table payments.alerts enable row level security;
revoke all on table payments.alerts from public, anon, authenticated, service_role;
