-- A capture that was recorded under its page's id gets the payment's own, and the amount that the provider states: the
-- caller who knew only the page had to assume the price.
create function payments.name_capture(
    p_known payments.captures,
    p_claim payments.captures,
    p_source text,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_known.session_id);
    v_capture payments.captures;
    v_reason text;
begin
    update payments.captures as c
    set provider_payment_id = p_claim.provider_payment_id, amount = p_claim.amount, currency = p_claim.currency
    where c.provider = p_known.provider and c.provider_payment_id = p_known.provider_payment_id
    returning c.* into v_capture;
    if not found then
        return;
    end if;
    update public.payment_refunds as r
    set provider_payment_id = p_claim.provider_payment_id
    where r.session_id = v_session.id
        and r.provider = p_known.provider
        and r.provider_payment_id = p_known.provider_payment_id;
    if p_known.disposition = 'settled' then
        update public.payment_checkout_sessions as s
        set provider_payment_id = p_claim.provider_payment_id, updated_at = p_now
        where s.id = v_session.id;
        v_reason := payments.trouble_of_capture(v_capture, v_session);
        if payments.add_reason(v_session.review_reason, v_reason) is distinct from v_session.review_reason then
            perform payments.flag_session(v_session, v_reason, p_source, p_claim.paid_at, p_now);
        end if;
    end if;
    -- refunds that named the payment before we knew it, or were weighed against the assumed amount; and what was
    -- assumed may have looked worse than the truth
    perform payments.settle_refunds(payments.session_by_id(v_session.id), p_source, p_claim.paid_at, p_now);
end;
$$;

comment on function payments.name_capture(payments.captures, payments.captures, text, timestamptz) is
'Gives a capture that is known by its page the payment''s own id; flags the session when the money is not what was '
'assumed.';

revoke all on function payments.name_capture(payments.captures, payments.captures, text, timestamptz)
from public, anon, authenticated, service_role;
