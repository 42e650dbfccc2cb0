create function payments.capture_of_refund(p_refund public.payment_refunds)
returns payments.captures
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures;
begin
    select c.* into v_capture
    from payments.captures as c
    where c.session_id = p_refund.session_id
        and c.provider = p_refund.provider
        and c.provider_payment_id = coalesce(p_refund.provider_payment_id, c.provider_payment_id)
    -- when nobody said which payment: the one that counts
    order by c.disposition = 'settled' desc, c.created_at
    limit 1;
    return v_capture;
end;
$$;

comment on function payments.capture_of_refund(public.payment_refunds) is
'The money that a refund takes back; null when it is not recorded (yet).';

revoke all on function payments.capture_of_refund(public.payment_refunds)
from public, anon, authenticated, service_role;
