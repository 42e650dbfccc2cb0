create function public.forget_heartbeat(p_name text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if coalesce(length(p_name), 0) not between 1 and 100 then
        raise exception 'p_name must have 1 to 100 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Name the worker as in record_heartbeat.';
    end if;
    delete from payments.heartbeats as h where h.name = p_name;
end;
$$;

comment on function public.forget_heartbeat(text) is
'A worker ends its work in good order: nobody needs to miss it. Raises PT422 invalid_input.';

revoke all on function public.forget_heartbeat(text) from public, anon, authenticated, service_role;
grant execute on function public.forget_heartbeat(text) to service_role;
