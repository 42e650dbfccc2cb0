create function public.retry_fulfilment(p_session_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_grant payments.grant_result;
begin
    perform payments.require_service();
    v_session := payments.lock_session(p_session_id);
    if v_session.fulfilment_status <> 'failed' then
        raise exception 'Nothing to retry: the session is % and its fulfilment is %.',
            v_session.status, v_session.fulfilment_status
            using errcode = 'PT409', detail = 'nothing_to_retry',
            hint = 'Only paid sessions with fulfilment_status failed can be retried.';
    end if;
    v_grant := payments.fulfil(v_session);
    update public.payment_checkout_sessions as s
    set fulfilment_status = v_grant.fulfilment_status,
        fulfilment = v_grant.fulfilment,
        error_code = v_grant.error_code,
        error_message = v_grant.error_message,
        review_reason = case v_grant.fulfilment_status
            when 'failed' then payments.add_reason(s.review_reason, 'fulfilment_failed')
            else payments.drop_reason(s.review_reason, 'fulfilment_failed')
        end,
        updated_at = now()
    where s.id = p_session_id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin',
        case v_grant.fulfilment_status when 'failed' then 'fulfilment_failed' else 'fulfilment_retried' end, null, now(),
        v_grant.detail
    );
    return payments.session_answer(v_session, true);
end;
$$;

comment on function public.retry_fulfilment(uuid) is
'Tries again to give the buyer of a paid session what was paid for. Raises PT404 session_not_found, PT409 '
'nothing_to_retry.';

revoke all on function public.retry_fulfilment(uuid) from public, anon, authenticated, service_role;
grant execute on function public.retry_fulfilment(uuid) to service_role;
