create function public.finish_notification(p_id bigint, p_error text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.notifications as n
    set status = case
            when p_error is null then 'sent'
            when n.tries >= s.notification_tries then 'dead'
            else 'queued'
        end,
        error = left(p_error, 500),
        -- 1, 2, 4 … minutes, at most 6 hours
        due_at = now() + least(interval '1 minute' * 2 ^ least(n.tries - 1, 20), interval '6 hours'),
        finished_at = case when p_error is null or n.tries >= s.notification_tries then now() end
    from payments.settings as s
    where n.id = p_id and n.status = 'queued' and n.tries > 0;
    if not found and not exists (select from payments.notifications as n where n.id = p_id and n.tries > 0) then
        raise exception 'Notification % was not claimed.', p_id
            using errcode = 'PT404', detail = 'notification_not_claimed', hint = 'Pass an id that claim_notifications gave.';
    end if;
end;
$$;

comment on function public.finish_notification(bigint, text) is
'Ends a claimed notification: sent, or (with p_error) queued again with growing waits, dead after '
'settings.notification_tries. One that has ended stays as it is. Raises PT404 notification_not_claimed.';

revoke all on function public.finish_notification(bigint, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_notification(bigint, text) to service_role;
