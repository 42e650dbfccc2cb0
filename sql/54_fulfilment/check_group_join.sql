create function payments.check_group_join(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_draft);
begin
    perform payments.check_group_metadata(p_draft, v_group.capacity);
    perform payments.check_not_a_member(v_group, p_draft.user_id);
    perform payments.free_position(v_group, null);
end;
$$;

comment on function payments.check_group_join(public.payment_checkout_sessions) is
'Refuses to sell a place that does not exist. Raises PT404 group_unknown, PT409 group_full, already_member, PT422 '
'invalid_input, group_product_mismatch.';

revoke all on function payments.check_group_join(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
