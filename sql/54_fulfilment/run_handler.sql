-- A handler that fails (a full group, a bug) leaves the session for review; passing trouble of the server (deadlock,
-- disk, shutdown) undoes everything, so that a retry can succeed.
create function payments.run_handler(
    p_function text,
    p_session public.payment_checkout_sessions,
    p_share numeric default null
)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer jsonb;
    v_reason text;
begin
    if p_share is not null then
        execute format('select %s($1, $2)', p_function) into v_answer using p_session, p_share;
    -- EXECUTE parses and plans anew each time: what is sold most does not wait for that
    elsif p_function = 'payments.fulfil_credits' then
        v_answer := payments.fulfil_credits(p_session);
    elsif p_function = 'payments.fulfil_subscription' then
        v_answer := payments.fulfil_subscription(p_session);
    else
        execute format('select %s($1)', p_function) into v_answer using p_session;
    end if;
    -- what a handler deferred must fail here, not at commit
    set constraints all immediate;
    return ('fulfilled', v_answer, null, null, null)::payments.grant_result;
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

comment on function payments.run_handler(text, public.payment_checkout_sessions, numeric) is
'Calls a handler (with a share, if one is given) and says how it went; never raises what a person must solve. A '
'handler that raises PTnnn speaks to the buyer; any other error is for operators only.';

revoke all on function payments.run_handler(text, public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;
