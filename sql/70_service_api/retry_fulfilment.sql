create function public.retry_fulfilment(p_session_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_result payments.grant_result;
    v_reverse boolean;
begin
    perform payments.require_service();
    v_session := payments.lock_session(p_session_id);
    if v_session.fulfilment_status <> 'failed'
        and 'reversal_failed' <> all(string_to_array(coalesce(v_session.review_reason, ''), ', '))
    then
        raise exception 'Nothing to retry: the session is % and its fulfilment is %.',
            v_session.status, v_session.fulfilment_status
            using errcode = 'PT409', detail = 'nothing_to_retry',
            hint = 'Only paid sessions whose fulfilment or its reversal failed can be retried.';
    end if;
    v_reverse := v_session.fulfilment is not null or v_session.refunded_amount > 0;
    if v_session.fulfilment is null then
        v_result := payments.fulfil(v_session);
        v_session := payments.note_fulfilment(p_session_id, v_result, now());
    end if;
    if v_reverse and v_session.fulfilment is not null then
        v_result := payments.reverse_fulfilment(v_session, v_session.refunded_amount::numeric(60, 40) / v_session.amount);
        v_session := payments.note_fulfilment(p_session_id, v_result, now());
    end if;
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin',
        case v_result.fulfilment_status when 'failed' then 'fulfilment_failed' else 'fulfilment_retried' end, null, now(),
        v_result.detail
    );
    return payments.session_answer(v_session, true);
end;
$$;

comment on function public.retry_fulfilment(uuid) is
'Tries again to give the buyer of a paid session what was paid for, or to take back what was refunded. Raises PT404 '
'session_not_found, PT409 nothing_to_retry.';

revoke all on function public.retry_fulfilment(uuid) from public, anon, authenticated, service_role;
grant execute on function public.retry_fulfilment(uuid) to service_role;
