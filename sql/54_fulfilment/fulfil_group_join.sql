create function payments.fulfil_group_join(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_session);
    v_position int;
begin
    -- read again behind the lock: the group may have been closed meanwhile
    select g.* into v_group from public.payment_groups as g where g.id = v_group.id for no key update;
    v_position := payments.seat_member(v_group, p_session, (p_session.metadata ->> 'position')::int);
    return jsonb_build_object('kind', 'group_join', 'group_id', v_group.id, 'position', v_position);
end;
$$;

comment on function payments.fulfil_group_join(public.payment_checkout_sessions) is
'Makes the buyer a member of the group that is the session''s subject: in the slot metadata.position if it is free, '
'else the next. Answers {kind, group_id, position}. Raises PT409 group_full, already_member.';

revoke all on function payments.fulfil_group_join(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
