-- One call is one transaction that deletes a few rows and holds their locks for milliseconds; callers repeat it.
-- Attempts, captures, refunds, entries and invoices stay: money that comes late, or twice, is recognised by them.
create function public.purge_old_payment_data(p_limit int default 200)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings payments.settings;
    v_sessions int;
    v_events int;
    v_notifications int;
    v_audit int;
    v_keys int;
    v_alerts int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    select s.* into v_settings from payments.settings as s;
    v_sessions := public.cleanup_completed_checkout_sessions(v_settings.session_retention, p_limit);
    p_limit := p_limit - v_sessions;
    v_notifications := payments.purge_notifications(now() - v_settings.session_retention, p_limit);
    p_limit := p_limit - v_notifications;
    v_events := payments.purge_webhook_events(now() - v_settings.webhook_retention, p_limit);
    p_limit := p_limit - v_events;
    v_audit := payments.purge_session_events(now() - v_settings.audit_retention, p_limit);
    p_limit := p_limit - v_audit;
    v_keys := public.cleanup_idempotency_keys(v_settings.idempotency_retention, p_limit);
    -- incidents are few, and need no index
    delete from payments.alerts as a where a.closed_at < now() - v_settings.session_retention;
    get diagnostics v_alerts = row_count;
    return jsonb_build_object(
        'sessions', v_sessions, 'notifications', v_notifications, 'webhook_events', v_events, 'session_events', v_audit,
        'idempotency_keys', v_keys, 'alerts', v_alerts
    );
end;
$$;

comment on function public.purge_old_payment_data(int) is
'Deletes up to p_limit rows that payments.settings wants kept no longer, and old alerts; answers how many of each: '
'{sessions, notifications, webhook_events, session_events, idempotency_keys, alerts}. Call it again until all are 0. '
'What is open, waits for a person or was not sent stays. Raises PT422 invalid_input.';

revoke all on function public.purge_old_payment_data(int) from public, anon, authenticated, service_role;
grant execute on function public.purge_old_payment_data(int) to service_role;
