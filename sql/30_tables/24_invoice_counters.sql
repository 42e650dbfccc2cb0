create table payments.invoice_counters (
    series text not null,
    year int not null,
    last_number int not null,
    primary key (series, year)
) with (fillfactor = 50);

comment on table payments.invoice_counters is
'The last number given per series and year. A row lock, not a sequence: a rolled back purchase leaves no gap.';

alter table payments.invoice_counters enable row level security;
revoke all on table payments.invoice_counters from public, anon, authenticated, service_role;
