-- Runs in the transaction that records the capture. A handler that refuses (a full group, say) leaves a paid session
-- for review; trouble of the server itself (deadlock, disk, shutdown) undoes everything, so that a retry can succeed.
create function payments.fulfil(p_session public.payment_checkout_sessions)
returns payments.grant_result
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_function text;
    v_fulfilment jsonb;
    v_detail text;
begin
    select h.fulfil_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    execute format('select %s($1)', v_function) into v_fulfilment using p_session;
    return ('fulfilled', v_fulfilment, null, null)::payments.grant_result;
exception
    when others then
        get stacked diagnostics v_detail = pg_exception_detail;
        if left(sqlstate, 2) in ('08', '25', '40', '53', '55', '57', '58', 'XX') then
            raise;
        end if;
        return (
            'failed', null, case when sqlstate like 'PT%' then v_detail else sqlstate end, left(sqlerrm, 500)
        )::payments.grant_result;
end;
$$;

comment on function payments.fulfil(public.payment_checkout_sessions) is
'Gives the buyer what was paid for, through the handler of the session''s kind; never raises what a person must solve.';

revoke all on function payments.fulfil(public.payment_checkout_sessions) from public, anon, authenticated, service_role;
