-- The one door by which money facts enter. One call is one transaction: the mark "event handled", the capture, the
-- fulfilment, the state change and the audit row commit together or not at all (guarantee 4).
create function public.apply_payment_outcome(p_outcome jsonb, p_event jsonb default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = ''
as $$
declare
    v_outcome payments.outcome := payments.read_outcome(p_outcome);
    v_attempt payments.attempts;
    v_claim payments.captures;
    v_session public.payment_checkout_sessions;
    v_answer jsonb;
begin
    if p_event is not null then
        perform payments.check_event(p_event);
        if exists (
            select from payments.webhook_events as e
            where e.provider = v_outcome.provider and e.event_id = p_event ->> 'id' and e.status = 'handled'
        ) then
            return jsonb_build_object('duplicate', true);
        end if;
    end if;
    v_attempt := payments.find_attempt(
        v_outcome.provider, v_outcome.reference, v_outcome.session_id, v_outcome.provider_session_id,
        v_outcome.provider_payment_id
    );
    if p_event is not null
        and not payments.mark_event_handled(v_outcome.provider, p_event, v_attempt.session_id, now())
    then
        return jsonb_build_object('duplicate', true);
    end if;
    if v_outcome.status = 'completed' then
        v_claim.provider := v_outcome.provider;
        v_claim.provider_payment_id := v_outcome.provider_payment_id;
        v_claim.session_id := v_attempt.session_id;
        v_claim.attempt_number := v_attempt.number;
        v_claim.provider_session_id := coalesce(v_outcome.provider_session_id, v_attempt.provider_session_id);
        v_claim.amount := v_outcome.amount;
        v_claim.currency := v_outcome.currency;
        v_claim.paid_at := coalesce(v_outcome.paid_at, now());
        v_answer := payments.settle_capture(v_claim, v_outcome.provider_customer_id, v_outcome.source, now());
    elsif v_outcome.status in ('processing', 'failed', 'expired', 'cancelled') then
        v_answer := payments.apply_page_outcome(v_outcome, v_attempt, now());
    else
        v_session := payments.session_by_id(v_attempt.session_id);
        v_answer := payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    if v_outcome.disputed or jsonb_array_length(v_outcome.refunds) > 0 then
        v_answer := payments.flag_money_taken_back(v_outcome, v_attempt.session_id, now());
    end if;
    return v_answer || jsonb_build_object('duplicate', false);
end;
$$;

comment on function public.apply_payment_outcome(jsonb, jsonb) is
'Applies what a provider says about an attempt (docs/architecture.md has the shape), exactly once. Answers '
'{duplicate, session_id, status, already_completed, fulfilment_status, fulfilment, review_reason}; for a known event '
'{duplicate: true}. Raises PT404 session_not_found, PT409 payment_reused, PT422 outcome_invalid, event_invalid.';

revoke all on function public.apply_payment_outcome(jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_payment_outcome(jsonb, jsonb) to service_role;
