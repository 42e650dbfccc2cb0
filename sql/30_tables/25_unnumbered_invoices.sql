create table payments.unnumbered_invoices (
    id bigint primary key generated always as identity,
    document jsonb not null,
    created_at timestamptz not null
);

comment on table payments.unnumbered_invoices is
'Documents of purchases that did not wait for a number because another purchase held the counter. '
'number_payment_invoices gives them theirs.';
comment on column payments.unnumbered_invoices.document is 'The row of payment_invoices, but for its number and date.';

alter table payments.unnumbered_invoices enable row level security;
revoke all on table payments.unnumbered_invoices from public, anon, authenticated, service_role;
