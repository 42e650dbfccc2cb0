create function payments.read_refunds(p_outcome payments.outcome, p_session public.payment_checkout_sessions)
returns setof public.payment_refunds
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
declare
    v_said jsonb;
    v_refund public.payment_refunds;
begin
    for v_said in select e from jsonb_array_elements(coalesce(p_outcome.refunds, '[]')) as e loop
        v_refund.provider := p_outcome.provider;
        v_refund.provider_refund_id := v_said ->> 'provider_refund_id';
        v_refund.session_id := p_session.id;
        v_refund.user_id := p_session.user_id;
        v_refund.provider_payment_id := p_outcome.provider_payment_id;
        v_refund.kind := coalesce(v_said ->> 'kind', 'refund');
        v_refund.amount := (v_said ->> 'amount')::bigint;
        v_refund.currency := coalesce(p_session.currency, p_outcome.currency, 'XXX'); -- ISO 4217: no currency
        v_refund.status := coalesce(v_said ->> 'status', 'succeeded');
        v_refund.reason := left(v_said ->> 'reason', 500);
        return next v_refund;
    end loop;
end;
$$;

comment on function payments.read_refunds(payments.outcome, public.payment_checkout_sessions) is
'The refunds of an outcome as rows that are not stored yet.';

revoke all on function payments.read_refunds(payments.outcome, public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
