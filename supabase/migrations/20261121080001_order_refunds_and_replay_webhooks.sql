-- Purpose: the bridge learns what of a payment can be given back and what is under way; a refund's reason and an open
--          dispute's amount may change; letters name products; dead letters can be listed.
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
        'refund_under_way', (
            select min(r.provider_refund_id)
            from public.payment_refunds as r
            where r.session_id = p_session.id and r.kind = 'refund' and r.status = 'pending'
        ),
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

-- One row per refund of the provider; its status only advances, so that news which overtook each other end the same.
-- The caller holds the session's lock.
create or replace function payments.record_refund(p_refund public.payment_refunds, p_source text, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_refund public.payment_refunds := p_refund;
    v_known public.payment_refunds;
    v_order text[] := array['pending', 'succeeded', 'failed'];
begin
    select r.* into v_known
    from public.payment_refunds as r
    where r.provider = p_refund.provider and r.provider_refund_id = p_refund.provider_refund_id
    for no key update;
    if v_known.status is null then
        if payments.exceeds_payment(p_refund) then
            v_refund.status := 'refused';
        end if;
        v_refund.currency := coalesce((payments.capture_of_refund(p_refund)).currency, p_refund.currency);
        v_refund.created_at := p_now;
        v_refund.updated_at := p_now;
        insert into public.payment_refunds select v_refund.* on conflict do nothing;
        if not found then
            raise exception 'This refund is being recorded by another call.'
                using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
        end if;
    elsif v_known.session_id <> p_refund.session_id
        -- what is disputed can change until the bank decides
        or v_known.amount <> p_refund.amount and (v_known.kind, v_known.status) <> ('dispute', 'pending')
    then
        perform payments.review_refund(v_refund, 'refund_conflict', p_source, p_now);
        return;
    elsif array_position(v_order, v_known.status) < array_position(v_order, p_refund.status)
        -- an earlier refund failed and left room for this one
        or v_known.status = 'refused' and payments.exceeds_payment(p_refund) is false
        -- what it says has changed: a bank wants details, another amount is disputed
        or v_known.status = p_refund.status
        and (v_known.amount, v_known.reason) is distinct from (p_refund.amount, coalesce(p_refund.reason, v_known.reason))
    then
        update public.payment_refunds as r
        set status = p_refund.status, amount = p_refund.amount, reason = coalesce(p_refund.reason, r.reason), updated_at = p_now
        where r.provider = p_refund.provider and r.provider_refund_id = p_refund.provider_refund_id
        returning r.* into v_refund;
    else
        return;
    end if;
    perform payments.tell_refund(v_refund, p_source, p_now);
end;
$$;

create or replace function public.claim_notifications(p_limit int default 50)
returns table (id bigint, session_id uuid, user_id uuid, kind text, email text, payload jsonb, tries int)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    with due as (
        -- a reminder that waited here while its buyer paid is not sent
        select n.id, n.kind = 'reminder' and not exists (
            select from public.payment_checkout_sessions as s
            where s.id = n.session_id and s.status = 'pending' and s.expires_at > now()
        ) as pointless
        from payments.notifications as n
        where n.status = 'queued' and n.due_at <= now()
        order by n.due_at
        limit p_limit
        for no key update skip locked
    ),

    claimed as (
        update payments.notifications as n
        set status = case when due.pointless then 'cancelled' else n.status end,
            finished_at = case when due.pointless then now() end,
            tries = n.tries + 1,
            due_at = now() + interval '5 minutes'
        from due
        where n.id = due.id
        returning n.*
    )

    select c.id, c.session_id, c.user_id, c.kind, c.email, c.payload || jsonb_build_object(
        'occurrence', c.occurrence,
        'product_name', (select p.name from public.payment_products as p where p.id = c.payload ->> 'product_id'),
        'invoice', (
            select i.series || '-' || i.year || '-' || i.number
            from public.payment_invoices as i
            where i.session_id = c.session_id and i.kind = 'invoice'
        )
    ), c.tries
    from claimed as c
    where c.status = 'queued'
    order by c.id;
end;
$$;

create function public.list_webhook_failures(
    p_provider text default null,
    p_event_id text default null,
    p_limit int default 50
)
returns table (
    provider text, event_id text, type text, payload jsonb, status text, error text, deliveries int,
    received_at timestamptz
)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    select e.provider, e.event_id, e.type, e.payload, e.status, e.error, e.deliveries, e.received_at
    from payments.webhook_events as e
    where e.status <> 'handled'
        and e.provider = coalesce(p_provider, e.provider)
        and e.event_id = coalesce(p_event_id, e.event_id)
    order by e.received_at, e.event_id
    limit p_limit;
end;
$$;

comment on function public.list_webhook_failures(text, text, int) is
'Genuine webhooks that were not applied, oldest first: {provider, event_id, type, payload, status, error, deliveries, '
'received_at}. status: failed when the provider sends it again, dead when a person must look. Raises PT422 '
'invalid_input.';

revoke all on function public.list_webhook_failures(text, text, int) from public, anon, authenticated, service_role;
grant execute on function public.list_webhook_failures(text, text, int) to service_role;
