-- Every proof of money ends here, whichever path it took. The capture's key and the index on settled captures decide
-- who was first; a replay only reads.
create function payments.settle_capture(
    p_claim payments.captures,
    p_provider_customer_id text,
    p_source text,
    p_now timestamptz
)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures := p_claim;
    v_session public.payment_checkout_sessions;
    v_untouched boolean := exists (
        select from public.payment_checkout_sessions as s
        where s.id = p_claim.session_id and s.status = 'pending' and s.review_reason is null
    );
begin
    -- recorded money has left its mark on the session: an untouched one needs no look before the lock
    if not v_untouched then
        if payments.recognise_capture(p_claim, p_source, p_now) then
            v_session := payments.session_by_id(p_claim.session_id);
            return payments.session_answer(v_session, v_session.completed_at is not null);
        end if;
        v_session := payments.session_by_id(p_claim.session_id);
        if v_session.status in ('failed', 'expired', 'cancelled') then -- late money (yield_purchase)
            perform payments.lock_purchase(v_session);
        end if;
    end if;
    v_session := payments.lock_session(p_claim.session_id);
    -- the look behind the lock: the winner of a race has committed by now
    if payments.recognise_capture(p_claim, p_source, p_now) then
        v_session := payments.session_by_id(p_claim.session_id);
        return payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    v_capture.disposition := case
        when v_session.status in ('completed', 'partially_refunded', 'refunded') then 'duplicate'
        when v_capture.currency <> v_session.currency then 'currency_mismatch'
        when v_capture.amount < v_session.amount then 'amount_mismatch'
        else 'settled'
    end;
    v_capture.created_at := p_now;
    insert into payments.captures select v_capture.* on conflict do nothing;
    if not found then
        perform payments.recognise_capture(p_claim, p_source, p_now);
        raise exception 'This payment is being recorded by another call.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
    end if;
    case v_capture.disposition
        when 'settled' then
            v_session := payments.complete_session(v_session, v_capture, p_provider_customer_id, p_source, p_now);
        when 'duplicate' then
            v_session := payments.flag_session(v_session, 'duplicate_payment', p_source, v_capture.paid_at, p_now);
        else
            v_session := payments.refuse_capture(v_session, v_capture, p_source, p_now);
    end case;
    -- a refund whose news overtook the payment's
    if exists (select from public.payment_refunds as r where r.session_id = v_session.id) then
        v_session := payments.settle_refunds(v_session, p_source, null, p_now);
    end if;
    return payments.session_answer(v_session, v_capture.disposition = 'duplicate');
end;
$$;

comment on function payments.settle_capture(payments.captures, text, text, timestamptz) is
'Records money proven received and does what it calls for: complete and fulfil, flag, or refuse. '
'Raises PT404 session_not_found, PT409 payment_reused, PT503 try_again.';

revoke all on function payments.settle_capture(payments.captures, text, text, timestamptz)
from public, anon, authenticated, service_role;
