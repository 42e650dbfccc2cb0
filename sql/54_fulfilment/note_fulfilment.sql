create function payments.note_fulfilment(p_session_id uuid, p_result payments.grant_result, p_now timestamptz)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_failed boolean := p_result.fulfilment_status = 'failed';
    v_failure text;
    v_open_before text;
    v_session public.payment_checkout_sessions;
begin
    -- what was given once can only fail to be taken back (or given again)
    select case when s.fulfilment is null then 'fulfilment_failed' else 'reversal_failed' end, s.review_reason
    into v_failure, v_open_before
    from public.payment_checkout_sessions as s
    where s.id = p_session_id;
    update public.payment_checkout_sessions as s
    set fulfilment_status = case
            when v_failed and v_failure = 'reversal_failed' then s.fulfilment_status else p_result.fulfilment_status
        end,
        fulfilment = p_result.fulfilment,
        error_code = case when v_failed and v_failure = 'fulfilment_failed' then coalesce(p_result.error_code, s.error_code) end,
        error_message = case
            when v_failed and v_failure = 'fulfilment_failed' then coalesce(p_result.error_message, s.error_message)
        end,
        review_reason = case
            when v_failed then payments.add_reason(s.review_reason, v_failure)
            else payments.drop_reason(payments.drop_reason(s.review_reason, 'fulfilment_failed'), 'reversal_failed')
        end,
        updated_at = p_now
    where s.id = p_session_id
    returning s.* into v_session;
    if v_failed then
        perform payments.alert_review(v_session, v_open_before, v_failure, p_now);
    end if;
    return v_session;
end;
$$;

comment on function payments.note_fulfilment(uuid, payments.grant_result, timestamptz) is
'Stores how giving a paid purchase, or taking it back, went; a failure is for review (fulfilment_failed, '
'reversal_failed), a success ends that review.';

revoke all on function payments.note_fulfilment(uuid, payments.grant_result, timestamptz)
from public, anon, authenticated, service_role;
