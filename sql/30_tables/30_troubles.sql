create table payments.troubles (
    kind text not null,
    subject text not null,
    minute timestamptz not null,
    times bigint not null,
    primary key (kind, subject, minute),
    constraint troubles_kind_is_known check (kind in ('failed_verifications', 'signature_failures'))
) with (fillfactor = 70);

comment on table payments.troubles is
'What only the bridges see, counted over all of them, per minute of the last hour. watch_payments judges it.';

alter table payments.troubles enable row level security;
revoke all on table payments.troubles from public, anon, authenticated, service_role;
