create function payments.fulfil_group_create(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups;
    v_position int;
begin
    insert into public.payment_groups (
        id, name, created_by, capacity, contribution_product_id, join_product_id, cycle, created_at
    )
    values (
        p_session.id,
        coalesce(
            p_session.metadata ->> 'name',
            (select p.name from public.payment_products as p where p.id = p_session.product_id)
        ),
        p_session.user_id,
        (p_session.terms ->> 'capacity')::int,
        p_session.terms ->> 'contribution_product',
        p_session.terms ->> 'join_product',
        (p_session.terms ->> 'cycle')::interval,
        now()
    )
    returning * into v_group;
    v_position := payments.seat_member(v_group, p_session, (p_session.metadata ->> 'position')::int);
    return jsonb_build_object('kind', 'group_create', 'group_id', v_group.id, 'position', v_position);
end;
$$;

comment on function payments.fulfil_group_create(public.payment_checkout_sessions) is
'Makes a group with the session''s id, and the buyer its first member in the slot metadata.position. Answers {kind, '
'group_id, position}.';

revoke all on function payments.fulfil_group_create(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
