create function payments.keep_alerts(p_kinds text[], p_incidents jsonb, p_now timestamptz)
returns setof payments.alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with incidents as (
        select i.kind, i.subject, i.detail
        from jsonb_to_recordset(p_incidents) as i (kind text, subject text, detail text)
    ),

    closed as (
        update payments.alerts as a
        set closed_at = p_now
        where a.closed_at is null
            and a.kind = any(p_kinds)
            and not exists (select from incidents as i where i.kind = a.kind and i.subject = a.subject)
        returning a.*
    ),

    kept as (
        insert into payments.alerts as a (kind, subject, detail, opened_at, seen_at, due_at)
        select i.kind, i.subject, i.detail, p_now, p_now, p_now
        from incidents as i
        on conflict (kind, subject) where closed_at is null do update
            set detail = excluded.detail, seen_at = excluded.seen_at
        returning a.*
    )

    select k.*
    from kept as k
    where k.opened_at = p_now
    union all
    select c.*
    from closed as c;
end;
$$;

comment on function payments.keep_alerts(text[], jsonb, timestamptz) is
'Opens, refreshes and closes the alerts of these kinds so that they are these incidents ([{kind, subject, detail}]); '
'rows: those opened or closed now. Its callers let one at a time in.';

revoke all on function payments.keep_alerts(text[], jsonb, timestamptz) from public, anon, authenticated, service_role;
