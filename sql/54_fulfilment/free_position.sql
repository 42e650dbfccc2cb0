create function payments.free_position(p_group public.payment_groups, p_preferred int)
returns int
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position int;
begin
    select slot.position into v_position
    from generate_series(1, p_group.capacity) as slot (position)
    where p_group.status = 'open' and not exists (
        select from public.payment_group_members as m
        where m.group_id = p_group.id and m.position = slot.position and m.status = 'active'
    )
    -- the preferred one, else the next behind it, else the first
    order by slot.position < coalesce(p_preferred, 1), slot.position
    limit 1;
    if not found then
        raise exception 'Group % has no free place.', p_group.id
            using errcode = 'PT409', detail = 'group_full', hint = 'Join another group, or wait until a place is free.';
    end if;
    return v_position;
end;
$$;

comment on function payments.free_position(public.payment_groups, int) is
'The slot of a group that a new member gets: the preferred one if it is free, else the next. Raises PT409 group_full.';

revoke all on function payments.free_position(public.payment_groups, int)
from public, anon, authenticated, service_role;
