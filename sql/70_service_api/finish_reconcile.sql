create function public.finish_reconcile(p_session_id uuid, p_result text, p_detail text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_next timestamptz;
    v_last_word text;
begin
    perform payments.require_service();
    if p_result is null or p_result not in ('asked', 'failed') then
        raise exception 'p_result must be asked or failed.'
            using errcode = 'PT422', detail = 'invalid_input',
            hint = 'asked: the provider answered and its word was applied; failed: it could not be asked.';
    end if;
    v_session := payments.lock_session(p_session_id);
    v_next := payments.next_reconcile(v_session, now());
    update payments.attempts as a
    set reconcile_at = v_next
    where a.number = v_session.current_attempt and a.reconcile_at is not null
    returning a.status into v_last_word;
    if found and v_next is null and v_session.completed_at is null
        and (p_result = 'failed' or v_last_word = 'processing')
    then
        perform payments.flag_session(v_session, 'reconcile_gave_up', 'reconcile', null, now(), left(p_detail, 1000));
    end if;
end;
$$;

comment on function public.finish_reconcile(uuid, text, text) is
'Ends a claim of claim_sessions_to_reconcile and sets when to ask again (settings.reconcile_after, once more after the '
'session has expired). When that was the last time and the truth is still unknown, the session goes to review. Raises '
'PT404 session_not_found, PT422 invalid_input.';

revoke all on function public.finish_reconcile(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_reconcile(uuid, text, text) to service_role;
