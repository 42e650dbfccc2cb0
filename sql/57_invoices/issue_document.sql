create function payments.issue_document(
    p_kind text,
    p_session public.payment_checkout_sessions,
    p_amount bigint,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_document public.payment_invoices;
begin
    select case p_kind when 'invoice' then s.invoice_series else s.credit_note_series end into v_document.series
    from payments.settings as s;
    v_document.kind := p_kind;
    v_document.session_id := p_session.id;
    v_document.user_id := p_session.user_id;
    v_document.email := p_session.email;
    v_document.product_id := p_session.product_id;
    v_document.product_name := (select p.name from public.payment_products as p where p.id = p_session.product_id);
    v_document.currency := p_session.currency;
    v_document.original_amount := p_session.original_amount;
    v_document.discount_amount := p_session.discount_amount;
    v_document.amount := p_amount;
    v_document.provider := p_session.provider;
    v_document.provider_payment_id := p_session.provider_payment_id;
    v_document.paid_at := p_session.completed_at;
    if not payments.number_document(v_document, p_now) then
        insert into payments.unnumbered_invoices (document, created_at) values (to_jsonb(v_document), p_now);
    end if;
end;
$$;

comment on function payments.issue_document(text, public.payment_checkout_sessions, bigint, timestamptz) is
'Issues an invoice, a credit note or a correction for a session; without a number for the moment when another '
'transaction holds the counter.';

revoke all on function payments.issue_document(text, public.payment_checkout_sessions, bigint, timestamptz)
from public, anon, authenticated, service_role;
