-- Those that are not handled stay for an operator to replay. Should a provider send one again that is forgotten, the
-- money it tells of is known by its own key (payments.captures, payment_refunds), which is kept for ever.
create function payments.purge_webhook_events(p_before timestamptz, p_limit int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old received_at
as $$
declare
    v_count int;
begin
    with old as (
        select e.provider, e.event_id
        from payments.webhook_events as e
        where e.session_id < payments.first_id_at(p_before) and e.received_at < p_before and e.status = 'handled'
        order by e.session_id
        limit p_limit
        for update skip locked
    )

    delete from payments.webhook_events as e
    using old
    where e.provider = old.provider and e.event_id = old.event_id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function payments.purge_webhook_events(timestamptz, int) is
'Deletes up to p_limit handled events that were received before, oldest first, and returns how many.';

revoke all on function payments.purge_webhook_events(timestamptz, int) from public, anon, authenticated, service_role;
