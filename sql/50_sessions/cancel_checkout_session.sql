create function payments.cancel_checkout_session(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
volatile
security definer -- users hold no write rights on any table; the owner is checked below
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.session_by_id(p_session_id);
begin
    if not payments.is_service() then
        perform payments.require_user(v_session.user_id);
    end if;
    if not payments.move_session(
        p_session_id,
        array['pending'],
        ('cancelled', case when payments.is_service() then 'admin' else 'client' end, 'cancelled', null, null),
        null,
        now()
    ) then
        raise exception 'Only a pending session can be cancelled; this one is %.',
            (payments.session_by_id(p_session_id)).status
            using errcode = 'PT409', detail = 'session_not_pending', hint = 'Read the session again.';
    end if;
    return payments.session_by_id(p_session_id);
end;
$$;

comment on function payments.cancel_checkout_session(uuid) is 'Body of public.cancel_checkout_session.';

revoke all on function payments.cancel_checkout_session(uuid) from public, anon, authenticated, service_role;
grant execute on function payments.cancel_checkout_session(uuid) to authenticated, service_role;
