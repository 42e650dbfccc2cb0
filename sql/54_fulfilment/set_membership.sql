create function payments.set_membership(p_session public.payment_checkout_sessions, p_group_id uuid, p_active boolean)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups;
    v_position int := (p_session.fulfilment ->> 'position')::int;
begin
    select g.* into v_group from public.payment_groups as g where g.id = p_group_id for no key update;
    if not p_active then
        update public.payment_group_members as m
        set status = 'ended', updated_at = now()
        where m.group_id = p_group_id and m.session_id = p_session.id and m.status = 'active';
    elsif not exists (
        select from public.payment_group_members as m
        where m.group_id = p_group_id and m.session_id = p_session.id and m.status = 'active'
    ) then
        v_position := payments.seat_member(v_group, p_session, v_position);
    end if;
    return v_position;
end;
$$;

comment on function payments.set_membership(public.payment_checkout_sessions, uuid, boolean) is
'Ends the membership that a session paid for, or restores it: in its old slot if that is free, else the next. Returns '
'the slot. Raises PT409 group_full, already_member.';

revoke all on function payments.set_membership(public.payment_checkout_sessions, uuid, boolean)
from public, anon, authenticated, service_role;
