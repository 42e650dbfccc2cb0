-- EXECUTE is granted to service_role alone; this is the second lock, for projects where somebody granted too much.
create function payments.require_service()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not payments.is_service() then
        raise exception 'This function is for the service only.'
            using errcode = 'PT403', detail = 'service_only', hint = 'Call it with the service role, never from a client.';
    end if;
end;
$$;

comment on function payments.require_service() is 'Refuses everybody but the service. Raises PT403 service_only.';

revoke all on function payments.require_service() from public, anon, authenticated, service_role;
