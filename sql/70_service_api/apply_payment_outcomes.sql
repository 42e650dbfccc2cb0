-- For callers that have several outcomes at once: they share a round trip and a commit, which cost more than most
-- outcomes. Each is a subtransaction, so what one of them breaks is undone without the others.
create function public.apply_payment_outcomes(p_calls jsonb)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms' -- the first holds its locks until the last is done
as $$
declare
    v_call record;
    v_answers jsonb[];
begin
    perform payments.require_service();
    -- Postgres keeps 64 subtransactions at hand for each transaction, and an outcome takes up to two
    if coalesce(jsonb_typeof(p_calls), 'null') <> 'array' or jsonb_array_length(p_calls) not between 1 and 32 then
        raise exception 'p_calls must be an array of 1 to 32 calls.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Pass [{"outcome": {...}, "event": {...}}].';
    end if;
    -- What a handler of the shop's own leaves until the commit (settings, locks, constraints that it has made immediate,
    -- the time that it takes) is for its own purchase.
    if exists (
        select from payments.fulfilment_handlers as h
        where h.kind not in ('credits', 'subscription', 'group_create', 'group_join', 'contribution', 'none')
            or h.fulfil_function <> 'payments.fulfil_' || h.kind or h.reverse_function <> 'payments.reverse_' || h.kind
    ) then
        return null;
    end if;
    v_answers := array_fill(null::jsonb, array[jsonb_array_length(p_calls)]);
    for v_call in
        select c.ordinality as number, c.value -> 'outcome' as outcome, nullif(c.value -> 'event', 'null') as event
        from jsonb_array_elements(p_calls) with ordinality as c
        -- in all calls alike, or those that meet in two of them would wait for each other
        order by
            coalesce(
                c.value #>> '{outcome,reference}', c.value #>> '{outcome,session_id}',
                c.value #>> '{outcome,provider_session_id}', c.value #>> '{outcome,provider_payment_id}'
            ),
            c.value #>> '{event,id}', c.ordinality
    loop
        begin
            v_answers[v_call.number] := public.apply_payment_outcome(v_call.outcome, v_call.event);
        exception
            when lock_not_available then
                exit; -- whoever waits longer keeps the others waiting, and what they hold
            when others then
                null; -- its caller makes it alone and is told why
        end;
    end loop;
    return to_jsonb(v_answers);
end;
$$;

comment on function public.apply_payment_outcomes(jsonb) is
'Applies up to 32 calls of apply_payment_outcome, [{outcome, event}], in one transaction. Answers what each of them '
'answers: null for those that were refused, stood behind a lock, or came after one that did. These changed nothing; '
'make them one by one. Answers null when all should be, because the shop has fulfilment handlers of its own. '
'Raises PT422 invalid_input.';

revoke all on function public.apply_payment_outcomes(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_payment_outcomes(jsonb) to service_role;
