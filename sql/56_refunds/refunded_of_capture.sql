create function payments.refunded_of_capture(p_capture payments.captures, p_statuses text[])
returns numeric
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(sum(r.amount), 0)
        from public.payment_refunds as r
        where r.session_id = p_capture.session_id
            and r.provider = p_capture.provider
            and (payments.capture_of_refund(r)).provider_payment_id = p_capture.provider_payment_id
            and r.status = any(p_statuses)
    );
end;
$$;

comment on function payments.refunded_of_capture(payments.captures, text[]) is
'Sum of a capture''s refunds with these statuses, in minor units.';

revoke all on function payments.refunded_of_capture(payments.captures, text[])
from public, anon, authenticated, service_role;
