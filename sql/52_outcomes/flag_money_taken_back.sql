-- Refunds and disputes that a provider reports are put before a person; nothing is clawed back yet.
create function payments.flag_money_taken_back(p_outcome payments.outcome, p_session_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_session_id);
    v_reasons text[] := array[
        case when p_outcome.disputed then 'dispute_reported' end,
        case
            when exists (
                select from jsonb_array_elements(coalesce(p_outcome.refunds, '[]')) as r
                where coalesce(r ->> 'status', 'succeeded') in ('pending', 'succeeded')
            ) then 'refund_reported'
        end
    ];
    v_reason text;
begin
    foreach v_reason in array v_reasons loop
        if payments.add_reason(v_session.review_reason, v_reason) is distinct from v_session.review_reason then
            v_session := payments.flag_session(v_session, v_reason, p_outcome.source, p_outcome.paid_at, p_now);
        end if;
    end loop;
    return payments.session_answer(v_session, v_session.completed_at is not null);
end;
$$;

comment on function payments.flag_money_taken_back(payments.outcome, uuid, timestamptz) is
'Flags the session for review: refund_reported, dispute_reported, or both.';

revoke all on function payments.flag_money_taken_back(payments.outcome, uuid, timestamptz)
from public, anon, authenticated, service_role;
