create function payments.apply_outcome(p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claim payments.captures := payments.claim_of_outcome(p_outcome, p_attempt, p_now);
    v_session public.payment_checkout_sessions;
    v_answer jsonb;
begin
    if not exists (select from public.payment_checkout_sessions as s where s.id = p_attempt.session_id) then
        if p_outcome.status = 'completed' then
            perform payments.keep_orphaned_money(v_claim, p_now);
        end if;
        v_session.id := p_attempt.session_id;
        perform payments.record_refund(r, p_outcome.source, p_now) from payments.read_refunds(p_outcome, v_session) as r;
        return jsonb_build_object('session_id', p_attempt.session_id, 'review_reason', 'session_deleted');
    end if;
    if p_outcome.status = 'completed' then
        v_answer := payments.settle_capture(v_claim, p_outcome.provider_customer_id, p_outcome.source, p_now);
    elsif p_outcome.status in ('processing', 'failed', 'expired', 'cancelled') then
        v_answer := payments.apply_page_outcome(p_outcome, p_attempt, p_now);
    else
        v_session := payments.session_by_id(p_attempt.session_id);
        v_answer := payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    if p_outcome.disputed or jsonb_array_length(p_outcome.refunds) > 0 then
        v_answer := payments.apply_refunds(p_outcome, p_attempt.session_id, p_now);
    end if;
    return v_answer;
end;
$$;

comment on function payments.apply_outcome(payments.outcome, payments.attempts, timestamptz) is
'Does what an outcome calls for and answers the session as it is then.';

revoke all on function payments.apply_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;
