-- The subject of a session names its group: '<group id>' to join, '<group id>:<cycle>' to contribute.
create function payments.group_of_session(p_session public.payment_checkout_sessions)
returns public.payment_groups
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups;
    v_id text := case p_session.kind
        when 'contribution' then split_part(p_session.subject, ':', 1) else p_session.subject
    end;
begin
    if v_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        select g.* into v_group from public.payment_groups as g where g.id = v_id::uuid;
    end if;
    if v_group.id is null then
        raise exception 'There is no group %.', coalesce(quote_literal(v_id), 'without an id')
            using errcode = 'PT404', detail = 'group_unknown', hint = 'p_subject is the id of a payment_groups row.';
    end if;
    if p_session.product_id <> (case p_session.kind
        when 'contribution' then v_group.contribution_product_id
        else coalesce(v_group.join_product_id, p_session.product_id)
    end) then
        raise exception 'Product % is not for this group.', p_session.product_id
            using errcode = 'PT422', detail = 'group_product_mismatch',
            hint = 'Buy the contribution_product_id or join_product_id of the group.';
    end if;
    return v_group;
end;
$$;

comment on function payments.group_of_session(public.payment_checkout_sessions) is
'The group that a session''s subject names, if its product is for that group. Raises PT404 group_unknown, PT422 '
'group_product_mismatch.';

revoke all on function payments.group_of_session(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
