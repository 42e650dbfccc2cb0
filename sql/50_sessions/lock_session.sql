-- Lock order of the engine, everywhere: webhook event, purchase (late money and free sessions only), session, attempt,
-- coupon, group, balance or subscription, invoice counter.
-- FOR NO KEY UPDATE, so that foreign-key checks of other rows never wait for a payment.
create function payments.lock_session(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    select s.* into v_session
    from public.payment_checkout_sessions as s
    where s.id = p_session_id
    for no key update;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
    return v_session;
end;
$$;

comment on function payments.lock_session(uuid) is
'Reads a session and locks it until the transaction ends. Raises PT404 session_not_found.';

revoke all on function payments.lock_session(uuid) from public, anon, authenticated, service_role;
