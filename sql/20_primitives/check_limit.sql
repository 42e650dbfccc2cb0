create function payments.check_limit(p_limit int)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_limit is null or p_limit < 0 then
        raise exception 'p_limit must be 0 or more.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out for the default.';
    end if;
end;
$$;

comment on function payments.check_limit(int) is 'Raises PT422 invalid_input.';

revoke all on function payments.check_limit(int) from public, anon, authenticated, service_role;
