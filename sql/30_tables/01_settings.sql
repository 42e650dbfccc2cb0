create table payments.settings (
    only_row boolean primary key default true,
    session_ttl interval not null default '24 hours',
    processing_ttl interval not null default '14 days',
    providers text[] not null default array['stripe', 'paystack', 'click', 'hypay', 'paypal', 'sandbox'],
    idempotency_lease interval not null default '60 seconds',
    coupon_returns_on_refund boolean not null default false,
    reminder_after interval not null default '6 hours',
    reminder_limit int not null default 3,
    notification_tries int not null default 8,
    reconcile_after interval[] not null default array['1 minute', '5 minutes', '15 minutes', '1 hour']::interval[],
    rate_window interval not null default '1 minute',
    create_limit int default 60,
    verify_limit int default 60,
    invoice_series text not null default 'INV',
    credit_note_series text not null default 'CN',
    signature_failure_limit int default 5,
    failed_verification_limit int default 10,
    session_retention interval not null default '400 days',
    webhook_retention interval not null default '90 days',
    audit_retention interval not null default '10 years',
    idempotency_retention interval not null default '24 hours',
    constraint settings_has_one_row check (only_row),
    constraint settings_session_ttl_is_30_minutes_or_more check (session_ttl >= interval '30 minutes'),
    constraint settings_processing_ttl_is_positive check (processing_ttl > interval '0'),
    constraint settings_idempotency_lease_is_positive check (idempotency_lease > interval '0'),
    constraint settings_reminders_are_spaced check (reminder_after > interval '0' and reminder_limit between 0 and 10),
    constraint settings_notification_tries_are_positive check (notification_tries > 0),
    constraint settings_reconcile_after_names_waits check (
        cardinality(reconcile_after) > 0 and interval '0' < all(reconcile_after)
    ),
    constraint settings_rates_are_positive check (
        rate_window > interval '0' and create_limit > 0 and verify_limit > 0
    ),
    constraint settings_series_are_two_names check (
        invoice_series ~ '^[A-Z0-9-]{1,12}$' and credit_note_series ~ '^[A-Z0-9-]{1,12}$'
        and invoice_series <> credit_note_series
    ),
    constraint settings_alert_limits_are_not_negative check (
        signature_failure_limit >= 0 and failed_verification_limit >= 0
    ),
    -- no provider sends an event again that is older than 30 days (docs/adr/0014)
    constraint settings_retentions_outlast_what_comes_late check (
        session_retention >= interval '30 days'
        and webhook_retention > interval '30 days'
        and audit_retention >= session_retention
        and idempotency_retention >= interval '1 hour'
    )
);

comment on table payments.settings is 'Installation-wide settings: exactly one row, changed by the DBA.';
comment on column payments.settings.session_ttl is 'How long a new session can be paid.';
comment on column payments.settings.processing_ttl is 'How long a session may wait for a delayed payment method.';
comment on column payments.settings.providers is 'Providers that a session may name.';

comment on column payments.settings.idempotency_lease is
'How long a request may be worked on before its holder counts as crashed.';

comment on column payments.settings.coupon_returns_on_refund is
'Whether a full refund gives the purchase''s coupon place back.';
comment on column payments.settings.reminder_after is
'When an unpaid session is reminded of for the first time, and the wait before each further reminder.';
comment on column payments.settings.reminder_limit is 'How many reminders a session gets at most; 0 sends none.';
comment on column payments.settings.notification_tries is 'After how many failed tries a notification is dead.';
comment on column payments.settings.reconcile_after is
'Waits before the provider is asked about an unsettled page; the last one repeats until the session expires.';
comment on column payments.settings.rate_window is 'Window of create_limit and verify_limit.';
comment on column payments.settings.create_limit is 'New sessions per user and window; null is no limit.';
comment on column payments.settings.verify_limit is 'Verifications per user and window; null is no limit.';
comment on column payments.settings.invoice_series is 'Series of invoice numbers.';
comment on column payments.settings.credit_note_series is 'Series of the numbers of credit notes and corrections.';
comment on column payments.settings.signature_failure_limit is
'How many notifications of a provider may be forged or wrongly signed in an hour before it is an alert; null: any.';
comment on column payments.settings.failed_verification_limit is
'How often in an hour a provider may not answer our questions before it is an alert; null: any.';
comment on column payments.settings.session_retention is
'How long closed sessions are kept, with what was written to their buyers. Longer than payments can be disputed.';
comment on column payments.settings.webhook_retention is
'How long events of providers are kept once they are handled, with their payloads.';
comment on column payments.settings.audit_retention is
'How long the audit trail is kept; younger rows cannot be deleted.';
comment on column payments.settings.idempotency_retention is
'How long a repeated request gets the answer of the first.';

alter table payments.settings enable row level security;
revoke all on table payments.settings from public, anon, authenticated, service_role;
