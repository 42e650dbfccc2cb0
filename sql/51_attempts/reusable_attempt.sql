-- A page that is still alive is shown again, and an attempt whose page is just being opened (by a double click, or by a
-- bridge that crashed) is continued under the same reference: providers with idempotency keys then answer with the same
-- page, so that no buyer holds two live pages.
create function payments.reusable_attempt(
    p_session public.payment_checkout_sessions,
    p_provider text,
    p_now timestamptz
)
returns payments.attempts
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_attempt payments.attempts;
begin
    if p_session.current_attempt is null then
        return null;
    end if;
    select a.* into v_attempt
    from payments.attempts as a
    where a.number = p_session.current_attempt
        and a.provider = p_provider
        and a.status = 'open'
        and a.expires_at > p_now + interval '1 minute'
        and (a.checkout_url is not null or a.created_at > p_now - interval '10 minutes');
    return v_attempt;
end;
$$;

comment on function payments.reusable_attempt(public.payment_checkout_sessions, text, timestamptz) is
'The session''s current attempt if its page can still be paid at this provider, else null.';

revoke all on function payments.reusable_attempt(public.payment_checkout_sessions, text, timestamptz)
from public, anon, authenticated, service_role;
