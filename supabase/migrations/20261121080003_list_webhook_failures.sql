-- Purpose: dead letters can be listed, and so repeated by an operator.
-- Locks:   none.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create function public.list_webhook_failures(
    p_provider text default null,
    p_event_id text default null,
    p_limit int default 50
)
returns table (
    provider text, event_id text, type text, payload jsonb, status text, error text, deliveries int,
    received_at timestamptz
)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    select e.provider, e.event_id, e.type, e.payload, e.status, e.error, e.deliveries, e.received_at
    from payments.webhook_events as e
    where e.status <> 'handled'
        and e.provider = coalesce(p_provider, e.provider)
        and e.event_id = coalesce(p_event_id, e.event_id)
    order by e.received_at, e.event_id
    limit p_limit;
end;
$$;

comment on function public.list_webhook_failures(text, text, int) is
'Genuine webhooks that were not applied, oldest first: {provider, event_id, type, payload, status, error, deliveries, '
'received_at}. status: failed when the provider sends it again, dead when a person must look. Raises PT422 '
'invalid_input.';

revoke all on function public.list_webhook_failures(text, text, int) from public, anon, authenticated, service_role;
grant execute on function public.list_webhook_failures(text, text, int) to service_role;
