create function public.add_session_note(p_session_id uuid, p_note text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    perform payments.check_note(p_note);
    v_session := payments.session_by_id(p_session_id);
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin', 'note', null, now(), p_note
    );
end;
$$;

comment on function public.add_session_note(uuid, text) is
'Writes into a session''s audit trail what an operator did or knows: one line of 1 to 500 characters. Raises PT404 '
'session_not_found, PT422 invalid_input.';

revoke all on function public.add_session_note(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.add_session_note(uuid, text) to service_role;
