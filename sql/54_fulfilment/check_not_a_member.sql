create function payments.check_not_a_member(p_group public.payment_groups, p_user_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from public.payment_group_members as m
        where m.group_id = p_group.id and m.user_id = p_user_id and m.status = 'active'
    ) then
        raise exception 'This user is a member of group % already.', p_group.id
            using errcode = 'PT409', detail = 'already_member', hint = 'One user holds one slot of a group.';
    end if;
end;
$$;

comment on function payments.check_not_a_member(public.payment_groups, uuid) is 'Raises PT409 already_member.';

revoke all on function payments.check_not_a_member(public.payment_groups, uuid)
from public, anon, authenticated, service_role;
