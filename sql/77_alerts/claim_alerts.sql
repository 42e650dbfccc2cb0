create function public.claim_alerts(p_limit int default 10)
returns table (id bigint, kind text, subject text, detail text, opened_at timestamptz, tries int)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
rows 10
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    with due as (
        select a.id
        from payments.alerts as a
        where a.told_at is null
            and a.due_at <= now()
            -- what was over long before anybody could be told is history
            and (a.closed_at is null or a.closed_at > now() - interval '1 day')
        order by a.due_at
        limit p_limit
        for no key update skip locked
    ),

    claimed as (
        update payments.alerts as a
        set tries = a.tries + 1, due_at = now() + interval '5 minutes'
        from due
        where a.id = due.id
        returning a.*
    )

    select c.id, c.kind, c.subject, c.detail, c.opened_at, c.tries
    from claimed as c
    order by c.id;
end;
$$;

comment on function public.claim_alerts(int) is
'Up to p_limit alerts of which the operator has not been told, each for one process: {id, kind, subject, detail, '
'opened_at, tries}. The claim lasts 5 minutes; end it with finish_alert.';

revoke all on function public.claim_alerts(int) from public, anon, authenticated, service_role;
grant execute on function public.claim_alerts(int) to service_role;
