create function public.finish_alert(p_id bigint, p_error text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.alerts as a
    set told_at = case when p_error is null then now() end,
        error = left(p_error, 500),
        -- 1, 2, 4 … minutes, at most an hour, and never given up while it lasts
        due_at = now() + least(interval '1 minute' * 2 ^ least(a.tries - 1, 20), interval '1 hour')
    where a.id = p_id and a.told_at is null and a.tries > 0;
    if not found and not exists (select from payments.alerts as a where a.id = p_id and a.tries > 0) then
        raise exception 'Alert % was not claimed.', p_id
            using errcode = 'PT404', detail = 'notification_not_claimed', hint = 'Pass an id that claim_alerts gave.';
    end if;
end;
$$;

comment on function public.finish_alert(bigint, text) is
'Ends a claimed alert: told, or (with p_error) to be told again later. One that was told stays so. Raises PT404 '
'notification_not_claimed.';

revoke all on function public.finish_alert(bigint, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_alert(bigint, text) to service_role;
