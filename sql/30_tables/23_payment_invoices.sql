-- No foreign key to the session, the user or the product: documents stay as they were issued.
create table public.payment_invoices (
    series text not null,
    year int not null,
    number int not null,
    kind text not null,
    session_id uuid not null,
    user_id uuid not null,
    email text,
    product_id text not null,
    product_name text not null,
    currency text not null,
    original_amount bigint not null,
    discount_amount bigint not null,
    amount bigint not null,
    provider text not null,
    provider_payment_id text,
    paid_at timestamptz not null,
    issued_at timestamptz not null,
    primary key (series, year, number),
    constraint payment_invoices_kind_is_known check (kind in ('invoice', 'credit_note', 'correction')),
    constraint payment_invoices_number_is_positive check (number > 0),
    constraint payment_invoices_sign_follows_their_kind check (
        case kind when 'credit_note' then amount < 0 else amount >= 0 end
    )
);

comment on table public.payment_invoices is
'One invoice per completed session, a credit note per refund, a correction when a refund fails later. Numbers have no '
'gaps per series and year (UTC). Minor units. Immutable.';
comment on column public.payment_invoices.amount is
'What the document is about; negative on credit notes. The documents of a session add up to what it has brought in.';

create unique index payment_invoices_one_invoice_per_session on public.payment_invoices (session_id)
where kind = 'invoice';

-- Reader: RLS.
create index payment_invoices_by_user on public.payment_invoices (user_id);

create trigger payment_invoices_are_immutable
before update or delete or truncate on public.payment_invoices
for each statement execute function payments.forbid_change();

alter table public.payment_invoices enable row level security;
revoke all on table public.payment_invoices from public, anon, authenticated, service_role;
grant select on table public.payment_invoices to authenticated, service_role;

create policy payment_invoices_are_read_by_their_user on public.payment_invoices
for select to authenticated
using (user_id = (select auth.uid()));
