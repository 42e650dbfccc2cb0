create function payments.claim_of_outcome(p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz)
returns payments.captures
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claim payments.captures;
begin
    v_claim.provider := p_outcome.provider;
    v_claim.provider_payment_id := p_outcome.provider_payment_id;
    v_claim.session_id := p_attempt.session_id;
    v_claim.attempt_number := p_attempt.number;
    v_claim.provider_session_id := coalesce(p_outcome.provider_session_id, p_attempt.provider_session_id);
    v_claim.amount := p_outcome.amount;
    v_claim.currency := p_outcome.currency;
    v_claim.paid_at := coalesce(p_outcome.paid_at, p_now);
    return v_claim;
end;
$$;

comment on function payments.claim_of_outcome(payments.outcome, payments.attempts, timestamptz) is
'The capture that an outcome claims, before it is judged.';

revoke all on function payments.claim_of_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;
