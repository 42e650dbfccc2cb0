create function payments.review_refund(
    p_refund public.payment_refunds,
    p_reason text,
    p_source text,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.flag_session(s, p_reason, p_source, null, p_now)
    from public.payment_checkout_sessions as s
    where s.id = p_refund.session_id
        and payments.add_reason(s.review_reason, p_reason) is distinct from s.review_reason;
end;
$$;

comment on function payments.review_refund(public.payment_refunds, text, text, timestamptz) is
'Flags the session of a refund, once per reason that is still open.';

revoke all on function payments.review_refund(public.payment_refunds, text, text, timestamptz)
from public, anon, authenticated, service_role;
