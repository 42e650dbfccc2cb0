create function payments.check_contribution(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_draft);
    v_cycle int := payments.cycle_of_session(p_draft);
begin
    if not exists (
        select from public.payment_group_members as m
        where m.group_id = v_group.id and m.user_id = p_draft.user_id and m.status = 'active'
    ) then
        raise exception 'This user is not a member of group %.', v_group.id
            using errcode = 'PT409', detail = 'not_a_member', hint = 'Join the group first.';
    end if;
    if exists (
        select from public.payment_contributions as c
        where c.group_id = v_group.id and c.user_id = p_draft.user_id and c.cycle = v_cycle and c.status = 'paid'
    ) then
        raise exception 'Cycle % of group % is paid.', v_cycle, v_group.id
            using errcode = 'PT409', detail = 'contribution_paid', hint = 'Pay the next cycle.';
    end if;
end;
$$;

comment on function payments.check_contribution(public.payment_checkout_sessions) is
'Refuses to sell a cycle to somebody who owes none. Raises PT404 group_unknown, PT409 not_a_member, contribution_paid, '
'PT422 invalid_input, group_product_mismatch.';

revoke all on function payments.check_contribution(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
