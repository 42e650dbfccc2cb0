create function public.attach_checkout_attempt(
    p_attempt bigint,
    p_provider_session_id text,
    p_checkout_url text,
    p_expires_at timestamptz default null
)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_attempt payments.attempts;
begin
    perform payments.require_service();
    if coalesce(length(p_provider_session_id), 0) not between 1 and 255
        or coalesce(p_checkout_url, '') !~ '^https?://[^[:space:][:cntrl:]]+$' or length(p_checkout_url) > 4000
        or p_expires_at not between '1970-01-01Z' and now() + interval '1 year'
    then
        raise exception
            'p_provider_session_id (1 to 255 characters) and p_checkout_url (http) are needed, p_expires_at within a year.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Pass what the provider answered.';
    end if;
    select a.* into v_attempt from payments.attempts as a where a.number = p_attempt;
    if not found then
        raise exception 'There is no attempt %.', p_attempt
            using errcode = 'PT404', detail = 'attempt_not_found', hint = 'Use the number that open_checkout_attempt gave.';
    end if;
    -- lock order: session, attempt
    perform payments.lock_session(v_attempt.session_id);
    update payments.attempts as a
    set status = case when a.status = 'failed' and a.checkout_url is null then 'open' else a.status end,
        provider_session_id = p_provider_session_id,
        checkout_url = p_checkout_url,
        expires_at = coalesce(p_expires_at, a.expires_at),
        -- while it had no page there was nothing to ask about, and the reconciler may have let it go
        reconcile_at = coalesce(a.reconcile_at, now() + (select s.reconcile_after[1] from payments.settings as s))
    where a.number = p_attempt and coalesce(a.provider_session_id, p_provider_session_id) = p_provider_session_id;
    if not found then
        raise exception 'Attempt % has another page already.', p_attempt
            using errcode = 'PT409', detail = 'attempt_attached', hint = 'Call open_checkout_attempt again and show its page.';
    end if;
    update public.payment_checkout_sessions as s
    set provider_session_id = p_provider_session_id,
        checkout_url = p_checkout_url,
        -- a session lives at least as long as the page on which it can be paid
        expires_at = greatest(s.expires_at, p_expires_at),
        updated_at = now()
    where s.current_attempt = p_attempt and s.id = v_attempt.session_id and s.status = 'pending';
end;
$$;

comment on function public.attach_checkout_attempt(bigint, text, text, timestamptz) is
'Stores the page that the provider opened for an attempt. The same page again changes nothing; another one raises '
'PT409 attempt_attached. Raises PT404 attempt_not_found.';

revoke all on function public.attach_checkout_attempt(bigint, text, text, timestamptz)
from public, anon, authenticated, service_role;
grant execute on function public.attach_checkout_attempt(bigint, text, text, timestamptz) to service_role;
