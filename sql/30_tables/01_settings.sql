create table payments.settings (
    only_row boolean primary key default true,
    session_ttl interval not null default '24 hours',
    processing_ttl interval not null default '14 days',
    providers text[] not null default array['stripe', 'paystack', 'click', 'hypay', 'paypal', 'sandbox'],
    idempotency_lease interval not null default '60 seconds',
    constraint settings_has_one_row check (only_row),
    constraint settings_session_ttl_is_30_minutes_or_more check (session_ttl >= interval '30 minutes'),
    constraint settings_processing_ttl_is_positive check (processing_ttl > interval '0'),
    constraint settings_idempotency_lease_is_positive check (idempotency_lease > interval '0')
);

comment on table payments.settings is 'Installation-wide settings: exactly one row, changed by the DBA.';
comment on column payments.settings.session_ttl is 'How long a new session can be paid.';
comment on column payments.settings.processing_ttl is 'How long a session may wait for a delayed payment method.';
comment on column payments.settings.providers is 'Providers that a session may name.';

comment on column payments.settings.idempotency_lease is
'How long a request may be worked on before its holder counts as crashed.';

alter table payments.settings enable row level security;
revoke all on table payments.settings from public, anon, authenticated, service_role;
