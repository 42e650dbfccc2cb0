create function public.fail_checkout_session(p_session_id uuid, p_error_code text, p_error_message text default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    perform payments.move_session(
        p_session_id,
        array['pending', 'processing'],
        ('failed', 'admin', null, p_error_code, p_error_message),
        null,
        now()
    );
    v_session := payments.session_by_id(p_session_id);
    return payments.session_answer(v_session, v_session.completed_at is not null);
end;
$$;

comment on function public.fail_checkout_session(uuid, text, text) is
'Fails an open session; any other is left as it is and answered. Raises PT404 session_not_found.';

revoke all on function public.fail_checkout_session(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.fail_checkout_session(uuid, text, text) to service_role;
