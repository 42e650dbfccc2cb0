-- No foreign key to the session: a receipt is still due when the session has been cleaned up.
create table payments.notifications (
    id bigint primary key generated always as identity,
    session_id uuid not null,
    user_id uuid not null,
    kind text not null,
    occurrence text not null,
    email text,
    payload jsonb not null,
    status text not null default 'queued',
    tries int not null default 0,
    due_at timestamptz not null,
    error text,
    created_at timestamptz not null,
    finished_at timestamptz,
    -- sent once, whatever happens twice
    constraint notifications_one_per_session_kind_and_occurrence unique (session_id, kind, occurrence),
    constraint notifications_kind_is_known check (kind in ('receipt', 'refund', 'reminder', 'review_alert')),
    constraint notifications_status_is_known check (status in ('queued', 'sent', 'dead', 'cancelled')),
    constraint notifications_buyers_have_an_address check (kind = 'review_alert' or email is not null)
) with (fillfactor = 80);

comment on table payments.notifications is
'Outbox: written in the transaction of what it tells, sent by a worker. cancelled: no longer true when its turn came.';
comment on column payments.notifications.occurrence is
'Which one of its kind: empty for the receipt, the refund''s id, the reminder''s number, the review''s reason '
'(with #2 when it comes back).';
comment on column payments.notifications.email is 'The buyer''s address; null for alerts, which go to the operator.';
comment on column payments.notifications.due_at is
'When it may be claimed; a claim moves it on, so that a crashed worker''s comes back.';

-- Readers: claim_notifications, payment_health.
create index notifications_due on payments.notifications (due_at) where status = 'queued';

-- Readers: payment_health, list_dead_notifications.
create index notifications_dead on payments.notifications (id) where status = 'dead';

-- Reader: payment_report.
create index notifications_reminders on payments.notifications (session_id) where kind = 'reminder';

alter table payments.notifications enable row level security;
revoke all on table payments.notifications from public, anon, authenticated, service_role;
