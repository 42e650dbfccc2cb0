create function public.cancel_checkout_session(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    return payments.cancel_checkout_session(p_session_id);
end;
$$;

comment on function public.cancel_checkout_session(uuid) is
'Cancels a pending session and returns it. Money that still arrives for it is honoured. Raises PT404 '
'session_not_found, PT403 not_your_session, PT401 not_signed_in, PT409 session_not_pending.';

revoke all on function public.cancel_checkout_session(uuid) from public, anon, authenticated, service_role;
grant execute on function public.cancel_checkout_session(uuid) to authenticated, service_role;
