create function public.payment_health()
returns jsonb
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return jsonb_build_object(
        'sessions', (
            select jsonb_build_object(
                'pending', count(*) filter (where s.status = 'pending'),
                'pending_over_1h', count(*) filter (where s.status = 'pending' and s.created_at < now() - interval '1 hour'),
                'processing', count(*) filter (where s.status = 'processing'),
                'overdue', count(*) filter (where s.expires_at < now() - interval '2 hours')
            )
            from public.payment_checkout_sessions as s
            where s.status in ('pending', 'processing')
        ),
        'reviews', (
            select jsonb_build_object(
                'open', count(*),
                'paid_but_unfulfilled', count(*) filter (where s.fulfilment_status = 'failed'),
                'oldest_seconds', payments.seconds_since(min(s.created_at))
            )
            from public.payment_checkout_sessions as s
            where s.review_reason is not null
        ),
        'webhooks', (
            select jsonb_build_object(
                'failed', count(*) filter (where e.status = 'failed'),
                'dead', count(*) filter (where e.status = 'dead'),
                'oldest_seconds', payments.seconds_since(min(e.received_at))
            )
            from payments.webhook_events as e
            where e.status <> 'handled'
        ),
        'notifications', (
            select jsonb_build_object(
                'due', count(*), 'oldest_seconds', payments.seconds_since(min(n.due_at)),
                'dead', (select count(*) from payments.notifications as d where d.status = 'dead')
            )
            from payments.notifications as n
            where n.status = 'queued' and n.due_at <= now()
        ),
        'reconcile', (
            select jsonb_build_object('due', count(*), 'oldest_seconds', payments.seconds_since(min(a.reconcile_at)))
            from payments.attempts as a
            where a.reconcile_at <= now()
        ),
        'invoices', (
            select jsonb_build_object('unnumbered', count(*), 'oldest_seconds', payments.seconds_since(min(u.created_at)))
            from payments.unnumbered_invoices as u
        ),
        'heartbeats', (
            select coalesce(jsonb_object_agg(h.name, payments.seconds_since(h.beat_at)), '{}')
            from payments.heartbeats as h
        ),
        'alerts', (
            select coalesce(jsonb_object_agg(o.kind, o.incidents), '{}')
            from (
                select a.kind, count(*) as incidents
                from payments.alerts as a
                where a.closed_at is null
                group by a.kind
            ) as o
        )
    );
end;
$$;

comment on function public.payment_health() is
'What waits and for how long (seconds): {sessions: {pending, pending_over_1h, processing, overdue}, reviews: '
'{open, paid_but_unfulfilled, oldest_seconds}, webhooks: {failed, dead, oldest_seconds}, notifications: {due, '
'oldest_seconds, dead}, reconcile: {due, oldest_seconds}, invoices: {unnumbered, oldest_seconds}, heartbeats: {worker: '
'seconds}, alerts: {kind: open incidents}}.';

revoke all on function public.payment_health() from public, anon, authenticated, service_role;
grant execute on function public.payment_health() to service_role;
