create function payments.session_by_id(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    select s.* into v_session from public.payment_checkout_sessions as s where s.id = p_session_id;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
    return v_session;
end;
$$;

comment on function payments.session_by_id(uuid) is 'Reads a session. Raises PT404 session_not_found.';

revoke all on function payments.session_by_id(uuid) from public, anon, authenticated, service_role;
