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
    select
        case p_kind when 'invoice' then t.invoice_series else t.credit_note_series end, null::int, null::int, p_kind,
        p_session.id, p_session.user_id, p_session.email, p_session.product_id, p.name, p_session.currency,
        p_session.original_amount, p_session.discount_amount, p_amount,
        p_session.provider, p_session.provider_payment_id, p_session.completed_at
    into
        v_document.series, v_document.year, v_document.number, v_document.kind,
        v_document.session_id, v_document.user_id, v_document.email, v_document.product_id, v_document.product_name,
        v_document.currency, v_document.original_amount, v_document.discount_amount, v_document.amount,
        v_document.provider, v_document.provider_payment_id, v_document.paid_at
    from payments.settings as t
    left join public.payment_products as p on p.id = p_session.product_id;
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
