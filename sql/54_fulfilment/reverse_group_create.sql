create function payments.reverse_group_create(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position int;
begin
    -- first, because nobody is seated in a closed group
    update public.payment_groups as g
    set status = 'open'
    where g.id = p_session.id and g.status = 'closed' and p_share < 1 and not exists (
        select from public.payment_group_members as m where m.group_id = g.id and m.status = 'active'
    );
    v_position := payments.set_membership(p_session, p_session.id, p_share < 1);
    update public.payment_groups as g
    set status = 'closed'
    where g.id = p_session.id and not exists (
        select from public.payment_group_members as m where m.group_id = g.id and m.status = 'active'
    );
    return jsonb_build_object('share', p_share, 'position', v_position);
end;
$$;

comment on function payments.reverse_group_create(public.payment_checkout_sessions, numeric) is
'Ends the creator''s membership when the share is 1, and closes the group if it has no other member; restores both '
'when it is less again. Answers {share, position}.';

revoke all on function payments.reverse_group_create(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;
