create function payments.fulfil(p_session public.payment_checkout_sessions)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
begin
    select h.fulfil_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    return payments.run_handler(v_function, p_session);
end;
$$;

comment on function payments.fulfil(public.payment_checkout_sessions) is
'Gives the buyer what was paid for, through the handler of the session''s kind, in the transaction that records the '
'capture.';

revoke all on function payments.fulfil(public.payment_checkout_sessions) from public, anon, authenticated, service_role;
