create function public.expire_old_checkout_sessions(p_limit int default 10000)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    with due as (
        -- where the locked row is, so that it need not be looked up again
        select s.ctid as place, s.status
        from public.payment_checkout_sessions as s
        where s.status in ('pending', 'processing') and s.expires_at <= now() and s.expires_at > '-infinity'
        order by s.expires_at
        limit p_limit
        for no key update skip locked
    ),

    expired as (
        update public.payment_checkout_sessions as s
        set status = 'expired', updated_at = now()
        from due
        where s.ctid = due.place
        returning s.id, due.status as from_status, s.coupon_id
    ),

    released as (
        update payments.coupon_redemptions as r
        set status = 'released', updated_at = now()
        from expired
        where expired.coupon_id is not null and r.session_id = expired.id and r.status = 'reserved'
    )

    insert into payments.session_events (session_id, from_status, to_status, source, reason, created_at)
    select expired.id, expired.from_status, 'expired', 'cron', 'lapsed', now()
    from expired;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.expire_old_checkout_sessions(int) is
'Expires up to p_limit lapsed sessions, oldest first, with their coupon places, and returns how many. Sessions that '
'another transaction holds are left for the next call. Money that still arrives for an expired session is honoured.';

revoke all on function public.expire_old_checkout_sessions(int) from public, anon, authenticated, service_role;
grant execute on function public.expire_old_checkout_sessions(int) to service_role;
