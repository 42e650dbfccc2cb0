create function payments.purge_session_events(p_before timestamptz, p_limit int)
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
        select e.session_id, e.id
        from payments.session_events as e
        where e.session_id < payments.first_id_at(p_before)
            and e.created_at < p_before
            -- counted, so that each row asks an index: a join would read all sessions and captures
            and 0 = (select count(*) from public.payment_checkout_sessions as s where s.id = e.session_id)
            and 0 = (
                select count(*)
                from payments.captures as c
                where c.session_id = e.session_id
                    and c.disposition in ('duplicate', 'amount_mismatch', 'currency_mismatch')
            )
        order by e.session_id, e.id
        limit p_limit
        for update skip locked
    )

    delete from payments.session_events as e
    using old
    where e.session_id = old.session_id and e.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function payments.purge_session_events(timestamptz, int) is
'Deletes up to p_limit rows of the audit trail written before, of sessions that have gone, oldest first, and returns '
'how many. The trail of money that did not pay its session stays.';

revoke all on function payments.purge_session_events(timestamptz, int) from public, anon, authenticated, service_role;
