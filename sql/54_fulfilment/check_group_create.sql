create function payments.check_group_create(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.check_group_metadata(p_draft, (p_draft.terms ->> 'capacity')::int);
    if not exists (
        select from public.payment_products as p
        where p.id = p_draft.terms ->> 'contribution_product' and p.kind = 'contribution'
    ) or (
        p_draft.terms ->> 'join_product' is not null
        and not exists (
            select from public.payment_products as p
            where p.id = p_draft.terms ->> 'join_product' and p.kind = 'group_join'
        )
    ) then
        raise exception 'Product % names products that do not exist.', p_draft.product_id
            using errcode = 'PT422', detail = 'group_product_mismatch',
            hint = 'terms.contribution_product is of kind contribution, terms.join_product of kind group_join.';
    end if;
end;
$$;

comment on function payments.check_group_create(public.payment_checkout_sessions) is
'Refuses a group that could not be made. Raises PT422 invalid_input, group_product_mismatch.';

revoke all on function payments.check_group_create(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
