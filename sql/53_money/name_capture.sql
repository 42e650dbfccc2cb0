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
begin
    update payments.captures as c
    set provider_payment_id = p_claim.provider_payment_id, amount = p_claim.amount, currency = p_claim.currency
    where c.provider = p_known.provider and c.provider_payment_id = p_known.provider_payment_id;
    if found and p_known.disposition = 'settled' then
        update public.payment_checkout_sessions as s
        set provider_payment_id = p_claim.provider_payment_id, updated_at = p_now
        where s.id = v_session.id;
        if (p_known.amount, p_known.currency) is distinct from (p_claim.amount, p_claim.currency) then
            perform payments.flag_session(
                v_session,
                case
                    when p_known.currency <> p_claim.currency then 'currency_mismatch'
                    when p_known.amount > p_claim.amount then 'amount_mismatch'
                    else 'overpaid'
                end,
                p_source, p_claim.paid_at, p_now
            );
        end if;
    end if;
end;
$$;

comment on function payments.name_capture(payments.captures, payments.captures, text, timestamptz) is
'Gives a capture that is known by its page the payment''s own id; flags the session when the money is not what was '
'assumed.';

revoke all on function payments.name_capture(payments.captures, payments.captures, text, timestamptz)
from public, anon, authenticated, service_role;
