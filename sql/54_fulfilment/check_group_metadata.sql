-- The buyer says in p_metadata which slot is preferred, and how a new group is called.
create function payments.check_group_metadata(p_draft public.payment_checkout_sessions, p_capacity int)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position text := p_draft.metadata ->> 'position';
begin
    if v_position !~ '^[1-9][0-9]{0,3}$' or v_position::int > p_capacity then
        raise exception 'p_metadata.position must be a slot from 1 to %.', p_capacity
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out to get the first free slot.';
    end if;
    if length(p_draft.metadata ->> 'name') not between 1 and 200 then
        raise exception 'p_metadata.name must have 1 to 200 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out to name the group like its product.';
    end if;
end;
$$;

comment on function payments.check_group_metadata(public.payment_checkout_sessions, int) is
'Checks position and name in a session''s metadata. Raises PT422 invalid_input.';

revoke all on function payments.check_group_metadata(public.payment_checkout_sessions, int)
from public, anon, authenticated, service_role;
