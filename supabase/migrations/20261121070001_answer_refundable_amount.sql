-- Purpose: the bridge learns how much of a session's payment can still be given back, and by which attempt it came.
-- Locks:   none.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create function payments.refundable_amount(p_session public.payment_checkout_sessions)
returns numeric
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce((
        select c.amount - payments.refunded_of_capture(c, array['pending', 'succeeded'])
        from payments.captures as c
        where c.session_id = p_session.id and c.disposition = 'settled'
    ), 0);
end;
$$;

comment on function payments.refundable_amount(public.payment_checkout_sessions) is
'What is left of a session''s payment to give back, in minor units; refunds under way count as given.';

revoke all on function payments.refundable_amount(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create or replace function payments.attempt_answer(
    p_session public.payment_checkout_sessions,
    p_attempt payments.attempts
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return payments.session_answer(p_session, p_session.completed_at is not null) || jsonb_build_object(
        'user_id', p_session.user_id,
        'amount', p_session.amount,
        'currency', p_session.currency,
        'email', p_session.email,
        'product_id', p_session.product_id,
        'product_name', (select p.name from public.payment_products as p where p.id = p_session.product_id),
        'provider', coalesce(p_attempt.provider, p_session.provider),
        'provider_payment_id', p_session.provider_payment_id,
        'refundable_amount', payments.refundable_amount(p_session),
        'refund_count', (select count(*) from public.payment_refunds as r where r.session_id = p_session.id),
        'session_expires_at', p_session.expires_at,
        'number', p_attempt.number,
        'reference', p_attempt.reference,
        'provider_session_id', p_attempt.provider_session_id,
        'checkout_url', p_attempt.checkout_url,
        'created_at', p_attempt.created_at,
        'expires_at', p_attempt.expires_at
    );
end;
$$;

-- Our own reference first: providers echo it on every path. Then the provider's session, then ours, and last the
-- payment, which is all that some refund and dispute notifications carry.
create or replace function payments.find_attempt(
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
    select a.number, a.session_id into v_number, v_session_id
    from payments.attempts as a
    where a.reference = p_reference and a.provider = coalesce(p_provider, a.provider);
    if v_session_id is null and p_provider_session_id is not null then
        select a.number, a.session_id into v_number, v_session_id
        from payments.attempts as a
        where a.provider = p_provider and a.provider_session_id = p_provider_session_id;
    end if;
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
    select a.* into v_attempt
    from payments.attempts as a
    where a.number = v_number and a.provider = coalesce(p_provider, a.provider);
    v_attempt.session_id := v_session_id;
    return v_attempt;
end;
$$;
