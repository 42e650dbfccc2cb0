create function payments.new_attempt(
    p_session public.payment_checkout_sessions,
    p_provider text,
    p_now timestamptz
)
returns payments.attempts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- a page needs time to be paid, and some providers refuse shorter ones
    v_expires_at timestamptz := greatest(p_session.expires_at, p_now + interval '30 minutes');
    v_attempt payments.attempts;
begin
    insert into payments.attempts (session_id, provider, reference, created_at, expires_at, reconcile_at)
    values (
        p_session.id,
        p_provider,
        replace(payments.new_time_ordered_id(p_session.user_id)::text, '-', ''),
        p_now,
        v_expires_at,
        p_now + (select s.reconcile_after[1] from payments.settings as s)
    )
    returning * into v_attempt;
    update public.payment_checkout_sessions as s
    set provider = p_provider,
        attempts = s.attempts + 1,
        current_attempt = v_attempt.number,
        provider_session_id = null,
        checkout_url = null,
        expires_at = v_expires_at,
        updated_at = p_now
    where s.id = p_session.id;
    return v_attempt;
end;
$$;

comment on function payments.new_attempt(public.payment_checkout_sessions, text, timestamptz) is
'Stores a new attempt with a fresh reference and makes it the locked session''s current one. '
'The session then lives for 30 minutes at least.';

revoke all on function payments.new_attempt(public.payment_checkout_sessions, text, timestamptz)
from public, anon, authenticated, service_role;
