create function payments.exceeds_payment(p_refund public.payment_refunds)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures := payments.capture_of_refund(p_refund);
begin
    -- a refund that overtook the news of its payment is weighed by settle_refunds
    return p_refund.status <> 'failed'
        and v_capture.amount < p_refund.amount::numeric + payments.refunded_of_capture(v_capture, array['pending', 'succeeded']);
end;
$$;

comment on function payments.exceeds_payment(public.payment_refunds) is
'Whether a new refund would give back more than was paid; null when the payment is not known yet.';

revoke all on function payments.exceeds_payment(public.payment_refunds) from public, anon, authenticated, service_role;
