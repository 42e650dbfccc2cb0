create function payments.trouble_of_capture(
    p_capture payments.captures,
    p_session public.payment_checkout_sessions
)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when p_capture.disposition = 'duplicate' then 'duplicate_payment'
        when p_capture.disposition <> 'settled' then p_capture.disposition
        when p_capture.currency <> p_session.currency then 'currency_mismatch'
        when p_capture.amount < p_session.amount then 'amount_mismatch'
        when p_capture.amount > p_session.amount then 'overpaid'
    end;
end;
$$;

comment on function payments.trouble_of_capture(payments.captures, public.payment_checkout_sessions) is
'The review reason that money of a session stands for; null when it is exactly what was due.';

revoke all on function payments.trouble_of_capture(payments.captures, public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
