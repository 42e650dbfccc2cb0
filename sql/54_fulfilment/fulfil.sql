-- Runs in the transaction that records the capture. A handler that fails (a full group, a bug) leaves a paid session
-- for review; passing trouble of the server (deadlock, disk, shutdown) undoes everything, so that a retry can succeed.
create function payments.fulfil(p_session public.payment_checkout_sessions)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
    v_fulfilment jsonb;
    v_reason text;
begin
    select h.fulfil_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    execute format('select %s($1)', v_function) into v_fulfilment using p_session;
    -- what a handler deferred must fail here, not at commit
    set constraints all immediate;
    return ('fulfilled', v_fulfilment, null, null, null)::payments.grant_result;
exception
    when assert_failure or others then
        get stacked diagnostics v_reason = pg_exception_detail;
        if sqlstate ~ '^(08|40|53[0-3]|55P03|57P|58)' then
            raise;
        end if;
        if sqlstate like 'PT%' then
            return ('failed', null, coalesce(nullif(v_reason, ''), 'handler_error'), left(sqlerrm, 500), null)::payments.grant_result;
        end if;
        return (
            'failed', null, 'handler_error', 'It could not be delivered yet.', left(sqlstate || ' ' || sqlerrm, 1000)
        )::payments.grant_result;
end;
$$;

comment on function payments.fulfil(public.payment_checkout_sessions) is
'Gives the buyer what was paid for, through the handler of the session''s kind; never raises what a person must solve. '
'A handler that raises PTnnn speaks to the buyer; any other error is for operators only.';

revoke all on function payments.fulfil(public.payment_checkout_sessions) from public, anon, authenticated, service_role;
