-- Leaves the buyer without p_share of the purchase in all: what was taken before counts, so a repeat changes nothing
-- and a smaller share gives back. What was never given is not taken; it is just no longer owed once all money is back.
create function payments.reverse_fulfilment(p_session public.payment_checkout_sessions, p_share numeric)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
    v_result payments.grant_result;
begin
    if p_session.fulfilment is null then
        v_result.fulfilment_status := case p_share when 1 then 'reversed' else 'failed' end;
        return v_result;
    end if;
    select h.reverse_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    if v_function is null then
        return (
            'failed', p_session.fulfilment, null, null, format('kind %s has no reverse_function', p_session.kind)
        )::payments.grant_result;
    end if;
    v_result := payments.run_handler(v_function, p_session, p_share);
    if v_result.fulfilment_status = 'fulfilled' then
        v_result.fulfilment_status := case p_share when 1 then 'reversed' else 'fulfilled' end;
        -- a member who is seated again may get another slot
        v_result.fulfilment := p_session.fulfilment || jsonb_build_object('reversal', v_result.fulfilment) || case
            when v_result.fulfilment ? 'position'
                then jsonb_build_object('position', v_result.fulfilment -> 'position')
            else '{}'
        end;
    else
        v_result.fulfilment := p_session.fulfilment;
        v_result.detail := coalesce(v_result.detail, v_result.error_message);
    end if;
    return v_result;
end;
$$;

comment on function payments.reverse_fulfilment(public.payment_checkout_sessions, numeric) is
'Takes a share (0 to 1) of a purchase back through the handler of its kind. Answers the fulfilment as it is then: '
'reversed, fulfilled, or failed when the handler could not.';

revoke all on function payments.reverse_fulfilment(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;
