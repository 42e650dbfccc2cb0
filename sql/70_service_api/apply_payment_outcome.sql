-- The one door by which money facts enter. One call is one transaction: the mark "event handled", the capture, the
-- fulfilment, the state change and the audit row commit together or not at all (guarantee 4).
create function public.apply_payment_outcome(p_outcome jsonb, p_event jsonb default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome payments.outcome;
    v_attempt payments.attempts;
begin
    perform payments.require_service();
    v_outcome := payments.read_outcome(p_outcome);
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
    return payments.apply_outcome(v_outcome, v_attempt, now()) || jsonb_build_object('duplicate', false);
end;
$$;

comment on function public.apply_payment_outcome(jsonb, jsonb) is
'Applies what a provider says about an attempt (docs/architecture.md has the shape), exactly once. Answers '
'{duplicate, session_id, status, already_completed, fulfilment_status, fulfilment, review_reason}; for a known event '
'{duplicate: true}. Raises PT404 session_not_found, PT409 payment_reused, PT422 outcome_invalid, event_invalid, '
'PT503 try_again.';

revoke all on function public.apply_payment_outcome(jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_payment_outcome(jsonb, jsonb) to service_role;
