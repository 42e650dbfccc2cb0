create function payments.refundable_amount(p_session public.payment_checkout_sessions)
returns numeric
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce((
        select c.amount - payments.refunded_of_capture(c, array['pending', 'succeeded'])
        from payments.captures as c
        where c.session_id = p_session.id and c.disposition = 'settled'
    ), 0);
end;
$$;

comment on function payments.refundable_amount(public.payment_checkout_sessions) is
'What is left of a session''s payment to give back, in minor units; refunds under way count as given.';

revoke all on function payments.refundable_amount(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
