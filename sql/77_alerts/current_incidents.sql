-- Cheap questions only, each answered by a small index or a small table: this is asked twice a minute.
create function payments.current_incidents(p_now timestamptz)
returns table (kind text, subject text, detail text)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    -- one per reason: the same trouble with a hundred webhooks is one incident
    select 'dead_webhooks', e.provider || ': ' || coalesce(substring(e.error from '^[a-z0-9_]+$'), 'other'),
        format('%s notifications could not be applied, the oldest of %s.', count(*), payments.clock_time(min(e.received_at)))
    from payments.webhook_events as e
    where e.status = 'dead'
    group by 2
    union all
    select 'dead_letters', n.kind, format('%s could not be sent, the oldest of %s.', count(*), payments.clock_time(min(n.created_at)))
    from payments.notifications as n
    where n.status = 'dead'
    group by n.kind
    union all
    -- workers beat every 15 seconds
    select 'stale_heartbeat', h.name, format('Last seen at %s.', payments.clock_time(h.beat_at))
    from payments.heartbeats as h
    where h.beat_at < p_now - interval '2 minutes'
    union all
    -- nothing was given or taken back for it: its session had gone, and its user with it
    select 'orphaned_money', o.provider, format('%s payments, refunds or disputes in the last week.', count(*))
    from (
        select c.provider
        from payments.captures as c
        where c.disposition = 'orphaned' and c.created_at > p_now - interval '7 days'
        union all
        select r.provider
        from public.payment_refunds as r
        where r.user_id is null and r.created_at > p_now - interval '7 days'
    ) as o
    group by o.provider
    union all
    select t.kind, t.subject, format('%s in the last hour.', sum(t.times))
    from payments.troubles as t
    cross join payments.settings as s
    where t.minute > p_now - interval '1 hour'
    group by t.kind, t.subject, s.signature_failure_limit, s.failed_verification_limit
    having sum(t.times) > case t.kind
            when 'signature_failures' then s.signature_failure_limit
            else s.failed_verification_limit
        end;
end;
$$;

comment on function payments.current_incidents(timestamptz) is
'What an operator must hear of, as watch_payments sees it at p_now; broken invariants are left to audit_payments.';

revoke all on function payments.current_incidents(timestamptz) from public, anon, authenticated, service_role;
