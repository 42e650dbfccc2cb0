-- While the session is there, a notification's key is what keeps it from being sent twice.
create function payments.purge_notifications(p_before timestamptz, p_limit int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old created_at
as $$
declare
    v_count int;
begin
    with old as (
        select n.id
        from payments.notifications as n
        where n.session_id < payments.first_id_at(p_before)
            and n.created_at < p_before
            and n.status in ('sent', 'cancelled')
            -- counted, so that each row asks the index: a join would read all sessions
            and 0 = (select count(*) from public.payment_checkout_sessions as s where s.id = n.session_id)
        order by n.session_id
        limit p_limit
        for update skip locked
    )

    delete from payments.notifications as n
    using old
    where n.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function payments.purge_notifications(timestamptz, int) is
'Deletes up to p_limit notifications made before, of sessions that have gone, and returns how many. Those waiting and '
'dead stay.';

revoke all on function payments.purge_notifications(timestamptz, int) from public, anon, authenticated, service_role;
