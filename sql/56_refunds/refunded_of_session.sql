-- What was paid beyond the price goes back first: returning an overpayment takes nothing from the buyer.
create function payments.refunded_of_session(p_session public.payment_checkout_sessions)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures;
    v_back numeric;
begin
    select c.* into v_capture
    from payments.captures as c
    where c.session_id = p_session.id and c.disposition = 'settled';
    if not found then
        return p_session.refunded_amount;
    end if;
    v_back := payments.refunded_of_capture(v_capture, array['succeeded']);
    return case
        when v_back >= v_capture.amount then p_session.amount
        else greatest(v_back - greatest(v_capture.amount - p_session.amount, 0), 0)
    end;
end;
$$;

comment on function payments.refunded_of_session(public.payment_checkout_sessions) is
'How much of the price has gone back, in minor units, never more than the price. All of it when all that was captured '
'is back.';

revoke all on function payments.refunded_of_session(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
