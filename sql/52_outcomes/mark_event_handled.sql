-- First statement of a webhook's transaction that writes: of two deliveries at once, the second waits here and then
-- finds the event handled. A delivery that failed before may be handled now.
create function payments.mark_event_handled(p_provider text, p_event jsonb, p_session_id uuid, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into payments.webhook_events as e (
        provider, event_id, type, payload, status, session_id, received_at, handled_at
    )
    values (
        p_provider, p_event ->> 'id', p_event ->> 'type', p_event -> 'payload', 'handled', p_session_id, p_now, p_now
    )
    on conflict (provider, event_id) do update
        set status = 'handled',
            session_id = excluded.session_id,
            error = null,
            deliveries = e.deliveries + 1,
            handled_at = excluded.handled_at
        where e.status <> 'handled';
    return found;
end;
$$;

comment on function payments.mark_event_handled(text, jsonb, uuid, timestamptz) is
'Stores the event as handled; false when it was handled before.';

revoke all on function payments.mark_event_handled(text, jsonb, uuid, timestamptz)
from public, anon, authenticated, service_role;
