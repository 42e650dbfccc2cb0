create function payments.add_session_event(
    p_session_id uuid,
    p_from_status text,
    p_to_status text,
    p_source text,
    p_reason text,
    p_occurred_at timestamptz,
    p_now timestamptz,
    p_detail text default null
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into payments.session_events (
        session_id, from_status, to_status, source, reason, detail, occurred_at, created_at
    )
    values (p_session_id, p_from_status, p_to_status, p_source, p_reason, p_detail, p_occurred_at, p_now);
end;
$$;

comment on function payments.add_session_event(uuid, text, text, text, text, timestamptz, timestamptz, text) is
'Writes one row of the audit trail.';

revoke all on function payments.add_session_event(uuid, text, text, text, text, timestamptz, timestamptz, text)
from public, anon, authenticated, service_role;
