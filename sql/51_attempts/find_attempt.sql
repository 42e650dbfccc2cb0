-- Our own reference first: providers echo it on every path. Then the provider's session, then ours, and last the
-- payment, which is all that some refund and dispute notifications carry.
create function payments.find_attempt(
    p_provider text,
    p_reference text,
    p_session_id uuid,
    p_provider_session_id text,
    p_provider_payment_id text
)
returns payments.attempts
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_number bigint;
    v_session_id uuid;
    v_attempt payments.attempts;
begin
    select a.* into v_attempt
    from payments.attempts as a
    where a.reference = p_reference and a.provider = coalesce(p_provider, a.provider);
    if not found and p_provider_session_id is not null then
        select a.* into v_attempt
        from payments.attempts as a
        where a.provider = p_provider and a.provider_session_id = p_provider_session_id;
    end if;
    v_session_id := v_attempt.session_id;
    if v_session_id is null and p_session_id is not null then
        -- the attempt that was paid speaks for a paid session
        select coalesce(c.attempt_number, s.current_attempt), s.id into v_number, v_session_id
        from public.payment_checkout_sessions as s
        left join payments.captures as c on s.id = c.session_id and c.disposition = 'settled'
        where s.id = p_session_id;
    end if;
    if v_session_id is null and p_provider_payment_id is not null then
        select c.attempt_number, c.session_id into v_number, v_session_id
        from payments.captures as c
        where c.provider = p_provider and c.provider_payment_id = p_provider_payment_id;
    end if;
    if v_session_id is null or v_session_id <> p_session_id then
        raise exception 'No checkout session belongs to this reference.'
            using errcode = 'PT404', detail = 'session_not_found', hint = 'Check the session id or the reference.';
    end if;
    if v_attempt.number is null then
        select a.* into v_attempt
        from payments.attempts as a
        where a.number = v_number and a.provider = coalesce(p_provider, a.provider);
        v_attempt.session_id := v_session_id;
    end if;
    return v_attempt;
end;
$$;

comment on function payments.find_attempt(text, text, uuid, text, text) is
'The attempt that is meant; its number is null when only the session is known. Raises PT404 session_not_found.';

revoke all on function payments.find_attempt(text, text, uuid, text, text)
from public, anon, authenticated, service_role;
