create function payments.next_reconcile(p_session public.payment_checkout_sessions, p_now timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_waits interval[];
    v_attempt payments.attempts;
    v_last timestamptz;
begin
    select s.reconcile_after into v_waits from payments.settings as s;
    select a.* into v_attempt from payments.attempts as a where a.number = p_session.current_attempt;
    -- a page may outlive its session, and providers tell the end of a page some time after it
    v_last := greatest(p_session.expires_at, v_attempt.expires_at) + v_waits[1];
    return case
        when p_session.completed_at is not null or v_attempt.status in ('failed', 'expired', 'cancelled') then null
        when p_now >= v_last then null
        else least(p_now + v_waits[least(v_attempt.reconcile_tries + 1, cardinality(v_waits))], v_last)
    end;
end;
$$;

comment on function payments.next_reconcile(public.payment_checkout_sessions, timestamptz) is
'When the provider is asked about the session''s current page next: after the growing waits of '
'settings.reconcile_after, and once more when session and page have expired; null when there is nothing left to ask.';

revoke all on function payments.next_reconcile(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;
