create function payments.story_of_messages(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb, place bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        w.received_at, 'webhook', w.type,
        jsonb_build_object(
            'provider', w.provider, 'event_id', w.event_id, 'type', w.type, 'status', w.status, 'error', w.error,
            'deliveries', w.deliveries, 'handled_at', w.handled_at
        ),
        0::bigint
    from payments.webhook_events as w
    where w.session_id = p_session_id
    union all
    select
        coalesce(n.finished_at, n.created_at), 'notification', n.kind || ' ' || n.status,
        jsonb_build_object(
            'kind', n.kind, 'occurrence', n.occurrence, 'email', n.email, 'status', n.status, 'tries', n.tries,
            'queued_at', n.created_at, 'due_at', n.due_at, 'finished_at', n.finished_at, 'error', n.error
        ),
        n.id
    from payments.notifications as n
    where n.session_id = p_session_id
    union all
    -- incidents are few, and are about providers, not sessions: those that lasted while this one was open
    select
        a.opened_at, 'alert', a.kind || ' ' || a.subject,
        jsonb_build_object(
            'kind', a.kind, 'subject', a.subject, 'detail', a.detail, 'closed_at', a.closed_at, 'told_at', a.told_at
        ),
        a.id
    from payments.alerts as a
    inner join public.payment_checkout_sessions as s on split_part(a.subject, ':', 1) = s.provider
    where s.id = p_session_id
        and a.kind in ('dead_webhooks', 'failed_verifications', 'signature_failures')
        and a.opened_at <= coalesce(s.completed_at, s.expires_at)
        and coalesce(a.closed_at, 'infinity') >= s.created_at;
end;
$$;

comment on function payments.story_of_messages(uuid) is
'The part of checkout_session_story that was told: webhooks of providers, letters to buyers, alerts.';

revoke all on function payments.story_of_messages(uuid) from public, anon, authenticated, service_role;
