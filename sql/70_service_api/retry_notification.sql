create function public.retry_notification(p_id bigint)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.notifications as n
    set status = 'queued', tries = 0, due_at = now(), error = null, finished_at = null
    where n.id = p_id and n.status = 'dead';
    if not found then
        raise exception 'No letter that was given up has this id.'
            using errcode = 'PT404', detail = 'dead_letter_unknown', hint = 'See list_dead_notifications.';
    end if;
end;
$$;

comment on function public.retry_notification(bigint) is
'Queues a letter again that was given up, with all its tries. Raises PT404 dead_letter_unknown.';

revoke all on function public.retry_notification(bigint) from public, anon, authenticated, service_role;
grant execute on function public.retry_notification(bigint) to service_role;
