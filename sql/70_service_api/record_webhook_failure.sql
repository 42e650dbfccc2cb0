create function public.record_webhook_failure(p_provider text, p_event jsonb, p_error text, p_retryable boolean)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_event(p_event);
    if coalesce(p_provider, '') !~ '^[a-z][a-z0-9_-]{0,62}$' then
        raise exception 'p_provider must name a provider.'
            using errcode = 'PT422', detail = 'event_invalid', hint = 'Pass the name under which the bridge knows it.';
    end if;
    insert into payments.webhook_events as e (provider, event_id, type, payload, status, error, received_at)
    values (
        p_provider, p_event ->> 'id', p_event ->> 'type', p_event -> 'payload',
        case when p_retryable then 'failed' else 'dead' end, left(p_error, 200), now()
    )
    on conflict (provider, event_id) do update
        set status = excluded.status, error = excluded.error, deliveries = e.deliveries + 1
        where e.status <> 'handled';
end;
$$;

comment on function public.record_webhook_failure(text, jsonb, text, boolean) is
'Keeps a genuine webhook that could not be applied, with its reason: failed when the provider will send it again, dead '
'when a person must look. A handled event is left alone. Raises PT422 event_invalid.';

revoke all on function public.record_webhook_failure(text, jsonb, text, boolean)
from public, anon, authenticated, service_role;
grant execute on function public.record_webhook_failure(text, jsonb, text, boolean) to service_role;
