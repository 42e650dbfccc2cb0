-- Purpose: operators can list sessions, and read all that happened to one.
-- Locks:   SHARE on payment_checkout_sessions and webhook_events while an index is built on each: writers wait about a
--          second per million webhooks. Run it at a quiet moment.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
-- squawk-ignore-file require-concurrent-index-creation
set lock_timeout = '5s';

create index payment_checkout_sessions_by_ending on public.payment_checkout_sessions (status, id)
where status in ('failed', 'expired', 'cancelled', 'refunded', 'partially_refunded');

create index webhook_events_by_session on payments.webhook_events (session_id) where session_id is not null;

create function public.list_checkout_sessions(
    p_status text default null,
    p_in_review boolean default null,
    p_user_id uuid default null,
    p_provider text default null,
    p_since timestamptz default null,
    p_before uuid default null,
    p_limit int default 50
)
returns table (
    session_id uuid, created_at timestamptz, status text, fulfilment_status text, review_reason text, user_id uuid,
    email text, product_id text, subject text, provider text, currency text, amount bigint, refunded_amount bigint,
    attempts int, expires_at timestamptz, completed_at timestamptz
)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_status <> all(array[
        'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
    ]) then
        raise exception 'There is no status %.', quote_literal(left(p_status, 64))
            using errcode = 'PT422', detail = 'invalid_input', hint = 'p_status is a state of docs/states.md, or left out.';
    end if;
    if p_since > now() then
        raise exception 'p_since is in the future.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out for all sessions.';
    end if;
    -- planned for each call: what was not asked for folds away, and what was may use its index
    return query execute
        'select s.id, s.created_at, s.status, s.fulfilment_status, s.review_reason, s.user_id, s.email, s.product_id,'
        ' s.subject, s.provider, s.currency, s.amount, s.refunded_amount, s.attempts, s.expires_at, s.completed_at'
        ' from public.payment_checkout_sessions as s'
        ' where ($1 is null or s.status = $1)'
        ' and ($2 is null or $2 = (s.review_reason is not null))'
        ' and ($3 is null or s.user_id = $3)'
        ' and ($4 is null or s.provider = $4)'
        ' and s.id >= payments.first_id_at($5) and ($6 is null or s.id < $6)'
        ' order by s.id desc limit $7'
    using p_status, p_in_review, p_user_id, p_provider, coalesce(p_since, '-infinity'), p_before, p_limit;
end;
$$;

comment on function public.list_checkout_sessions(text, boolean, uuid, text, timestamptz, uuid, int) is
'Sessions for operators, newest first, amounts in minor units: {session_id, created_at, status, fulfilment_status, '
'review_reason, user_id, email, product_id, subject, provider, currency, amount, refunded_amount, attempts, '
'expires_at, completed_at}. Arguments that are left out do not filter. p_since: made since then; it bounds the search '
'of p_provider, which has no index. p_before: the last session_id of the answer before. Raises PT422 invalid_input.';

revoke all on function public.list_checkout_sessions(text, boolean, uuid, text, timestamptz, uuid, int)
from public, anon, authenticated, service_role;
grant execute on function public.list_checkout_sessions(text, boolean, uuid, text, timestamptz, uuid, int)
to service_role;

create function payments.story_of_purchase(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb, place bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        s.created_at, 'session', 'made for ' || s.product_id,
        jsonb_build_object(
            'session_id', s.id, 'status', s.status, 'fulfilment_status', s.fulfilment_status,
            'review_reason', s.review_reason, 'user_id', s.user_id, 'email', s.email, 'product_id', s.product_id,
            'subject', s.subject, 'provider', s.provider, 'currency', s.currency, 'original_amount', s.original_amount,
            'discount_amount', s.discount_amount, 'amount', s.amount, 'refunded_amount', s.refunded_amount,
            'coupon_id', s.coupon_id, 'fulfilment', s.fulfilment, 'error_code', s.error_code,
            'expires_at', s.expires_at, 'completed_at', s.completed_at
        ),
        0::bigint
    from public.payment_checkout_sessions as s
    where s.id = p_session_id
    union all
    select
        a.created_at, 'attempt', 'page for ' || a.provider,
        jsonb_build_object(
            'number', a.number, 'provider', a.provider, 'reference', a.reference, 'status', a.status,
            'provider_session_id', a.provider_session_id, 'error_code', a.error_code, 'error_message', a.error_message,
            'expires_at', a.expires_at, 'reconcile_at', a.reconcile_at, 'reconcile_tries', a.reconcile_tries
        ),
        a.number
    from payments.attempts as a
    where a.session_id = p_session_id
    union all
    select
        e.created_at, 'state',
        case when e.from_status = e.to_status then coalesce(e.reason, e.to_status) else e.from_status || ' -> ' || e.to_status end,
        jsonb_build_object(
            'from_status', e.from_status, 'to_status', e.to_status, 'source', e.source, 'reason', e.reason,
            'detail', e.detail, 'occurred_at', e.occurred_at
        ),
        e.id
    from payments.session_events as e
    where e.session_id = p_session_id;
end;
$$;

comment on function payments.story_of_purchase(uuid) is
'The part of checkout_session_story that the engine did: the session, its attempts and its changes.';

revoke all on function payments.story_of_purchase(uuid) from public, anon, authenticated, service_role;

-- Documents are found by their user, whom the invoice names: the session may be gone.
create function payments.story_of_money(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb, place bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        c.created_at, 'capture', 'money ' || c.disposition,
        jsonb_build_object(
            'provider', c.provider, 'provider_payment_id', c.provider_payment_id, 'attempt_number', c.attempt_number,
            'amount', c.amount, 'currency', c.currency, 'disposition', c.disposition, 'paid_at', c.paid_at
        ),
        0::bigint
    from payments.captures as c
    where c.session_id = p_session_id
    union all
    select
        r.created_at, 'refund', r.kind || ' ' || r.status,
        jsonb_build_object(
            'provider', r.provider, 'provider_refund_id', r.provider_refund_id,
            'provider_payment_id', r.provider_payment_id, 'kind', r.kind, 'amount', r.amount, 'currency', r.currency,
            'status', r.status, 'reason', r.reason, 'updated_at', r.updated_at
        ),
        0
    from public.payment_refunds as r
    where r.session_id = p_session_id
    union all
    select
        d.issued_at, 'invoice', d.kind || ' ' || d.series || '-' || d.year || '-' || d.number,
        jsonb_build_object(
            'series', d.series, 'year', d.year, 'number', d.number, 'kind', d.kind, 'amount', d.amount,
            'currency', d.currency
        ),
        d.number
    from public.payment_invoices as i
    inner join public.payment_invoices as d on i.user_id = d.user_id and i.session_id = d.session_id
    where i.session_id = p_session_id and i.kind = 'invoice'
    union all
    select
        e.created_at, 'credits', e.reason, jsonb_build_object('amount', e.amount, 'reason', e.reason, 'source', e.source),
        e.id
    from public.payment_credit_entries as e
    where e.reason in ('purchase', 'clawback', 'reinstatement') and e.source in (
        select p_session_id::text
        union all
        select p_session_id || ':' || n.change
        from payments.credit_clawbacks as k
        cross join generate_series(1, k.changes) as n (change)
        where k.session_id = p_session_id
    );
end;
$$;

comment on function payments.story_of_money(uuid) is
'The part of checkout_session_story that is money: captures, refunds, documents and credits.';

revoke all on function payments.story_of_money(uuid) from public, anon, authenticated, service_role;

create function payments.story_of_messages(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb, place bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        w.received_at, 'webhook', w.type,
        jsonb_build_object(
            'provider', w.provider, 'event_id', w.event_id, 'type', w.type, 'status', w.status, 'error', w.error,
            'deliveries', w.deliveries, 'handled_at', w.handled_at
        ),
        0::bigint
    from payments.webhook_events as w
    where w.session_id = p_session_id
    union all
    select
        coalesce(n.finished_at, n.created_at), 'notification', n.kind || ' ' || n.status,
        jsonb_build_object(
            'kind', n.kind, 'occurrence', n.occurrence, 'email', n.email, 'status', n.status, 'tries', n.tries,
            'queued_at', n.created_at, 'due_at', n.due_at, 'finished_at', n.finished_at, 'error', n.error
        ),
        n.id
    from payments.notifications as n
    where n.session_id = p_session_id
    union all
    -- incidents are few, and are about providers, not sessions: those that lasted while this one was open
    select
        a.opened_at, 'alert', a.kind || ' ' || a.subject,
        jsonb_build_object(
            'kind', a.kind, 'subject', a.subject, 'detail', a.detail, 'closed_at', a.closed_at, 'told_at', a.told_at
        ),
        a.id
    from payments.alerts as a
    inner join public.payment_checkout_sessions as s on split_part(a.subject, ':', 1) = s.provider
    where s.id = p_session_id
        and a.kind in ('dead_webhooks', 'failed_verifications', 'signature_failures')
        and a.opened_at <= coalesce(s.completed_at, s.expires_at)
        and coalesce(a.closed_at, 'infinity') >= s.created_at;
end;
$$;

comment on function payments.story_of_messages(uuid) is
'The part of checkout_session_story that was told: webhooks of providers, letters to buyers, alerts.';

revoke all on function payments.story_of_messages(uuid) from public, anon, authenticated, service_role;

-- Attempts, money, history and documents outlive their session, and so does its story.
create function public.checkout_session_story(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return query
    select t.at, t.kind, t.title, jsonb_strip_nulls(t.detail)
    from (
        select p.* from payments.story_of_purchase(p_session_id) as p
        union all
        select m.* from payments.story_of_money(p_session_id) as m
        union all
        select n.* from payments.story_of_messages(p_session_id) as n
    ) as t
    -- what one transaction did has one time: cause before effect
    order by t.at, array_position(
        array[
            'session', 'attempt', 'alert', 'webhook', 'capture', 'refund', 'state', 'credits', 'invoice', 'notification'
        ],
        t.kind
    ), t.place, t.title;
    if not found then
        raise exception 'There is no checkout session %.', coalesce(p_session_id::text, 'without an id')
            using errcode = 'PT404', detail = 'session_not_found', hint = 'Check the session id or the reference.';
    end if;
end;
$$;

comment on function public.checkout_session_story(uuid) is
'All that happened to a session, in order of time: {at, kind, title, detail}. kind is session (as it is now), attempt, '
'alert, webhook, capture, refund, state, credits, invoice or notification; detail holds what an operator needs of the '
'row, without what is null, amounts in minor units. No payloads of webhooks, addresses of pages, or metadata. Raises '
'PT404 session_not_found.';

revoke all on function public.checkout_session_story(uuid) from public, anon, authenticated, service_role;
grant execute on function public.checkout_session_story(uuid) to service_role;
