-- What happened to a page without bringing money: processing, failed, expired, cancelled. Only the current attempt
-- speaks for its session: the end of an older page says nothing about the page that the buyer has open now.
create function payments.apply_page_outcome(p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_attempt.session_id);
begin
    if p_attempt.number is not null and not payments.advance_attempt(p_attempt.number, p_outcome) then
        return payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    if p_outcome.status = 'processing' then
        perform payments.begin_processing(v_session, p_attempt.number, p_outcome, p_now);
    elsif p_attempt.number is not distinct from v_session.current_attempt
        and not payments.hand_over(v_session, p_now)
    then
        perform payments.move_session(
            v_session.id,
            array['pending', 'processing'],
            (p_outcome.status, p_outcome.source, null, p_outcome.error_code, p_outcome.error_message),
            p_outcome.paid_at,
            p_now
        );
    end if;
    return payments.session_answer(payments.session_by_id(v_session.id), v_session.completed_at is not null);
end;
$$;

comment on function payments.apply_page_outcome(payments.outcome, payments.attempts, timestamptz) is
'Applies an outcome that brings no money. Stale ones change nothing.';

revoke all on function payments.apply_page_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;
