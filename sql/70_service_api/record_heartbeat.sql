create function public.record_heartbeat(p_name text)
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
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Name the worker, the same each time.';
    end if;
    insert into payments.heartbeats (name, beat_at)
    values (p_name, now())
    on conflict (name) do update set beat_at = excluded.beat_at;
end;
$$;

comment on function public.record_heartbeat(text) is
'Notes that a worker is at work; payment_health shows when it last was. Raises PT422 invalid_input.';

revoke all on function public.record_heartbeat(text) from public, anon, authenticated, service_role;
grant execute on function public.record_heartbeat(text) to service_role;
