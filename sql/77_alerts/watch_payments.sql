create function public.watch_payments()
returns table (change text, kind text, subject text, detail text)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    -- every process watches; while one looks, the others need not
    if not pg_try_advisory_xact_lock(7243923, 0) then
        return;
    end if;
    return query
    select case when k.closed_at is null then 'opened' else 'closed' end, k.kind, k.subject, k.detail
    from payments.keep_alerts(
        array[
            'dead_letters', 'dead_webhooks', 'failed_verifications', 'orphaned_money', 'signature_failures',
            'stale_heartbeat'
        ],
        (select coalesce(jsonb_agg(to_jsonb(i)), '[]') from payments.current_incidents(now()) as i),
        now()
    ) as k;
    delete from payments.troubles as t where t.minute <= now() - interval '1 hour';
    -- a worker that did not come back under its name never will; its alert ends with it
    delete from payments.heartbeats as h where h.beat_at < now() - interval '1 day';
end;
$$;

comment on function public.watch_payments() is
'Opens an alert for each new incident and closes those that are over; rows: {change (opened, closed), kind, subject, '
'detail}. Cheap: ask twice a minute. Heartbeats older than a day are forgotten.';

revoke all on function public.watch_payments() from public, anon, authenticated, service_role;
grant execute on function public.watch_payments() to service_role;
