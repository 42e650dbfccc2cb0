-- What a provider says went back. Refunds may come before the payment's own news, twice, and in any order.
create function payments.apply_refunds(p_outcome payments.outcome, p_session_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_session_id);
    v_refund public.payment_refunds;
begin
    for v_refund in select * from payments.read_refunds(p_outcome, v_session) loop
        perform payments.record_refund(v_refund, p_outcome.source, p_now);
    end loop;
    v_session := payments.session_by_id(p_session_id);
    if p_outcome.disputed
        and payments.add_reason(v_session.review_reason, 'dispute_reported') is distinct from v_session.review_reason
    then
        v_session := payments.flag_session(v_session, 'dispute_reported', p_outcome.source, p_outcome.paid_at, p_now);
    end if;
    v_session := payments.settle_refunds(v_session, p_outcome.source, p_outcome.paid_at, p_now);
    return payments.session_answer(v_session, v_session.completed_at is not null);
end;
$$;

comment on function payments.apply_refunds(payments.outcome, uuid, timestamptz) is
'Records the refunds and disputes of an outcome and brings the session in line with them.';

revoke all on function payments.apply_refunds(payments.outcome, uuid, timestamptz)
from public, anon, authenticated, service_role;
