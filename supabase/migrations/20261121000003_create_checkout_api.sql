-- Purpose: the functions that clients and the bridge call, and Realtime.
-- Locks:   SHARE UPDATE EXCLUSIVE on public.payment_checkout_sessions, which is new and empty.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create function public.cancel_checkout_session(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    return payments.cancel_checkout_session(p_session_id);
end;
$$;

comment on function public.cancel_checkout_session(uuid) is
'Cancels a pending session and returns it. Money that still arrives for it is honoured. Raises PT404 '
'session_not_found, PT403 not_your_session, PT401 not_signed_in, PT409 session_not_pending.';

revoke all on function public.cancel_checkout_session(uuid) from public, anon, authenticated, service_role;
grant execute on function public.cancel_checkout_session(uuid) to authenticated, service_role;

create function public.get_latest_checkout_session(p_user_id uuid default null)
returns setof public.payment_checkout_sessions
language plpgsql
stable
security invoker
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.*
    from public.payment_checkout_sessions as s
    where s.user_id = payments.require_user(p_user_id)
    order by s.id desc
    limit 1;
end;
$$;

comment on function public.get_latest_checkout_session(uuid) is
'The user''s newest checkout session, or no row: what an app resumes. Raises PT401 not_signed_in, PT403 '
'not_your_session, PT422 user_required.';

revoke all on function public.get_latest_checkout_session(uuid) from public, anon, authenticated, service_role;
grant execute on function public.get_latest_checkout_session(uuid) to authenticated, service_role;

create function public.get_or_create_checkout_session(
    p_plan text,
    p_user_id uuid default null,
    p_email text default null,
    p_price numeric default null,
    p_provider text default 'stripe',
    p_currency text default null,
    p_coupon text default null,
    p_subject text default null,
    p_idempotency_key text default null,
    p_metadata jsonb default '{}'
)
returns uuid
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    return payments.get_or_create_checkout_session(
        p_plan, p_user_id, p_email, p_price, p_provider, p_currency, p_coupon, p_subject, p_idempotency_key, p_metadata
    );
end;
$$;

comment on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) is
'The open checkout session for this purchase if there is one, else a new one; returns its id. The price comes from '
'payment_prices: p_price (major units) is only checked. Raises PT404 product_unknown, PT422 currency_unavailable, '
'coupon_unknown, price_mismatch, provider_unknown, invalid_input, user_required, user_unknown, PT409 '
'idempotency_conflict, PT401 not_signed_in, PT403 not_your_session, PT503 try_again.';

revoke all on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) from public, anon, authenticated, service_role;
grant execute on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) to authenticated, service_role;

create function public.payment_history(p_page int default 1, p_page_size int default 20, p_status text default null)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(null);
    v_total bigint;
    v_payments jsonb;
begin
    if p_status <> all(array[
        'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
    ]) then
        raise exception 'There is no status %.', quote_literal(p_status)
            using errcode = 'PT422', detail = 'invalid_input', hint = 'p_status is a state of docs/states.md, or left out.';
    end if;
    if p_page is null or p_page not between 1 and 1000000 or p_page_size is null or p_page_size not between 1 and 100 then
        raise exception 'p_page starts at 1, p_page_size is 1 to 100.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Ask for the next page instead of a larger one.';
    end if;
    select count(*) into v_total
    from public.payment_checkout_sessions as s
    where s.user_id = v_user_id and (p_status is null or s.status = p_status);
    select coalesce(jsonb_agg(to_jsonb(page) order by page.id desc), '[]') into v_payments
    from (
        select
            s.id, s.product_id, s.subject, s.status, s.fulfilment_status, s.fulfilment, s.provider, s.currency,
            s.original_amount, s.discount_amount, s.amount, s.refunded_amount, s.created_at, s.completed_at, s.expires_at
        from public.payment_checkout_sessions as s
        where s.user_id = v_user_id and (p_status is null or s.status = p_status)
        order by s.id desc
        limit p_page_size
        offset (p_page - 1)::bigint * p_page_size
    ) as page;
    return jsonb_build_object(
        'payments', v_payments,
        'total_count', v_total,
        'page', p_page,
        'page_size', p_page_size,
        'has_more', p_page::bigint * p_page_size < v_total
    );
end;
$$;

comment on function public.payment_history(int, int, text) is
'The signed-in user''s checkout sessions, newest first, amounts in minor units: {payments, total_count, page, '
'page_size, has_more}. Raises PT401 not_signed_in, PT422 invalid_input, user_required.';

revoke all on function public.payment_history(int, int, text) from public, anon, authenticated, service_role;
grant execute on function public.payment_history(int, int, text) to authenticated, service_role;

create function public.payment_stats()
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(null);
begin
    return jsonb_build_object(
        'spent', (
            select coalesce(jsonb_object_agg(paid.currency, paid.amount), '{}')
            from (
                select s.currency, sum(s.amount - s.refunded_amount) as amount
                from public.payment_checkout_sessions as s
                where s.user_id = v_user_id and s.completed_at is not null
                group by s.currency
            ) as paid
        ),
        'credits_bought', (
            select coalesce(sum(e.amount), 0)
            from public.payment_credit_entries as e
            where e.user_id = v_user_id and e.reason = 'purchase'
        ),
        'payments_by_status', (
            select coalesce(jsonb_object_agg(counted.status, counted.number), '{}')
            from (
                select s.status, count(*) as number
                from public.payment_checkout_sessions as s
                where s.user_id = v_user_id
                group by s.status
            ) as counted
        )
    );
end;
$$;

comment on function public.payment_stats() is
'The signed-in user''s totals: {spent: {currency: minor units, refunds deducted}, credits_bought, payments_by_status}. '
'Raises PT401 not_signed_in, PT422 user_required.';

revoke all on function public.payment_stats() from public, anon, authenticated, service_role;
grant execute on function public.payment_stats() to authenticated, service_role;

create function public.quote_checkout(p_plan text, p_currency text default null, p_coupon text default null)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_offer payments.offer := payments.make_offer(p_plan, p_currency, p_coupon);
begin
    return jsonb_build_object(
        'plan', v_offer.product_id,
        'name', v_offer.name,
        'terms', v_offer.terms,
        'currency', v_offer.currency,
        'original_amount', v_offer.original_amount,
        'discount_amount', v_offer.discount_amount,
        'amount', v_offer.amount
    );
end;
$$;

comment on function public.quote_checkout(text, text, text) is
'What a purchase would cost, in minor units, without creating anything. Raises PT404 product_unknown, PT422 '
'currency_unavailable, coupon_unknown.';

revoke all on function public.quote_checkout(text, text, text) from public, anon, authenticated, service_role;
grant execute on function public.quote_checkout(text, text, text) to authenticated, service_role;

create function public.abandon_checkout_attempt(p_attempt bigint, p_error_code text, p_error_message text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.attempts as a
    set status = 'failed', error_code = p_error_code, error_message = left(p_error_message, 500)
    where a.number = p_attempt and a.status = 'open' and a.checkout_url is null;
end;
$$;

comment on function public.abandon_checkout_attempt(bigint, text, text) is
'Gives up an attempt whose page could not be opened, so that the next try gets a new reference. The session stays '
'pending; an attempt that has a page is left alone.';

revoke all on function public.abandon_checkout_attempt(bigint, text, text)
from public, anon, authenticated, service_role;
grant execute on function public.abandon_checkout_attempt(bigint, text, text) to service_role;

-- The one door by which money facts enter. One call is one transaction: the mark "event handled", the capture, the
-- fulfilment, the state change and the audit row commit together or not at all (guarantee 4).
create function public.apply_payment_outcome(p_outcome jsonb, p_event jsonb default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome payments.outcome;
    v_attempt payments.attempts;
begin
    perform payments.require_service();
    v_outcome := payments.read_outcome(p_outcome);
    if p_event is not null then
        perform payments.check_event(p_event);
        if exists (
            select from payments.webhook_events as e
            where e.provider = v_outcome.provider and e.event_id = p_event ->> 'id' and e.status = 'handled'
        ) then
            return jsonb_build_object('duplicate', true);
        end if;
    end if;
    v_attempt := payments.find_attempt(
        v_outcome.provider, v_outcome.reference, v_outcome.session_id, v_outcome.provider_session_id,
        v_outcome.provider_payment_id
    );
    if p_event is not null
        and not payments.mark_event_handled(v_outcome.provider, p_event, v_attempt.session_id, now())
    then
        return jsonb_build_object('duplicate', true);
    end if;
    return payments.apply_outcome(v_outcome, v_attempt, now()) || jsonb_build_object('duplicate', false);
end;
$$;

comment on function public.apply_payment_outcome(jsonb, jsonb) is
'Applies what a provider says about an attempt (docs/architecture.md has the shape), exactly once. Answers '
'{duplicate, session_id, status, already_completed, fulfilment_status, fulfilment, review_reason}; for a known event '
'{duplicate: true}. Raises PT404 session_not_found, PT409 payment_reused, PT422 outcome_invalid, event_invalid, '
'PT503 try_again.';

revoke all on function public.apply_payment_outcome(jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.apply_payment_outcome(jsonb, jsonb) to service_role;

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
    if coalesce(length(p_provider_session_id), 0) not between 1 and 255 or coalesce(p_checkout_url, '') = '' then
        raise exception 'p_provider_session_id (1 to 255 characters) and p_checkout_url are needed.'
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
        expires_at = coalesce(p_expires_at, a.expires_at)
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

create function public.begin_idempotent_request(p_key text, p_request_hash text, p_user_id uuid default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known payments.idempotency_keys;
begin
    perform payments.require_service();
    if coalesce(length(p_key), 0) not between 1 and 300 or coalesce(length(p_request_hash), 0) not between 1 and 300 then
        raise exception 'p_key and p_request_hash must have 1 to 300 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Hash the request; name the user in the key.';
    end if;
    -- a key that is forgotten by cleanup_idempotency_keys between the two is claimed in the next round
    loop
        insert into payments.idempotency_keys (
            key, user_id, request_hash, status, leased_until, created_at, updated_at
        )
        values (
            p_key, p_user_id, p_request_hash, 'pending',
            now() + (select s.idempotency_lease from payments.settings as s), now(), now()
        )
        on conflict (key) do nothing;
        if found then
            return jsonb_build_object('status', 'new', 'claim', 1);
        end if;
        select k.* into v_known from payments.idempotency_keys as k where k.key = p_key for no key update;
        exit when found;
    end loop;
    if v_known.request_hash <> p_request_hash or v_known.user_id is distinct from p_user_id then
        raise exception 'This idempotency key was used with another request.'
            using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for a new request.';
    end if;
    if v_known.status = 'completed' then
        return jsonb_build_object('status', 'completed', 'response', v_known.response);
    end if;
    if v_known.status = 'pending' and v_known.leased_until > now() then
        raise exception 'The same request is being worked on.'
            using errcode = 'PT409', detail = 'request_in_progress', hint = 'Send it again in a few seconds.';
    end if;
    update payments.idempotency_keys as k
    set status = 'pending',
        claim = k.claim + 1,
        leased_until = now() + (select s.idempotency_lease from payments.settings as s),
        updated_at = now()
    where k.key = p_key;
    return jsonb_build_object('status', 'new', 'claim', v_known.claim + 1);
end;
$$;

comment on function public.begin_idempotent_request(text, text, uuid) is
'Claims a request. Answers {status: new, claim} to the caller who must do the work (the first one, or the next after a '
'failure or a crash), and {status: completed, response} to a repeat. Raises PT409 request_in_progress, PT409 '
'idempotency_conflict, PT422 invalid_input.';

revoke all on function public.begin_idempotent_request(text, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function public.begin_idempotent_request(text, text, uuid) to service_role;

-- Each guarantee as a question about the data. Constraints make most of the answers impossible; asking anyway is how a
-- restored, hand-edited or half-migrated database is found out.
create function public.check_payment_invariants()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return query
    select 'one_open_session_per_purchase', s.user_id::text, s.product_id || coalesce(' ' || s.subject, '')
    from public.payment_checkout_sessions as s
    where s.status in ('pending', 'processing')
    group by s.user_id, s.product_id, s.subject
    having count(*) > 1
    union all
    select 'paid_session_has_one_settled_capture', s.id::text, format('%s settled captures', count(c.session_id))
    from public.payment_checkout_sessions as s
    left join payments.captures as c on s.id = c.session_id and c.disposition = 'settled'
    where s.completed_at is not null and s.amount > 0
    group by s.id
    having count(c.session_id) <> 1
    union all
    select 'settled_capture_completes_its_session', c.session_id::text, c.provider || ' ' || c.provider_payment_id
    from payments.captures as c
    inner join public.payment_checkout_sessions as s on c.session_id = s.id
    where c.disposition = 'settled' and s.completed_at is null
    union all
    select 'settled_capture_pays_the_price', c.session_id::text,
        format('%s %s due, %s %s captured', s.amount, s.currency, c.amount, c.currency)
    from payments.captures as c
    inner join public.payment_checkout_sessions as s on c.session_id = s.id
    where c.disposition = 'settled'
        and (c.amount < s.amount or c.currency <> s.currency)
        and s.review_reason is null
    union all
    select 'money_without_goods_is_in_review', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.fulfilment_status in ('none', 'failed') and s.review_reason is null
    union all
    select 'credits_are_granted_once_per_paid_session', s.id::text, format('%s entries', count(e.source))
    from public.payment_checkout_sessions as s
    left join public.payment_credit_entries as e on e.reason = 'purchase' and e.source = s.id::text
    where s.kind = 'credits' and s.fulfilment_status = 'fulfilled'
    group by s.id
    having count(e.source) <> 1
    union all
    select 'credits_are_granted_for_fulfilled_sessions_only', s.id::text, s.fulfilment_status
    from public.payment_credit_entries as e
    inner join public.payment_checkout_sessions as s on e.source = s.id::text
    where e.reason = 'purchase' and s.fulfilment_status in ('none', 'failed')
    union all
    select 'balance_is_the_sum_of_entries', b.user_id::text, format('balance %s, entries %s', b.balance, coalesce(e.total, 0))
    from public.payment_credit_balances as b
    left join (
        select pe.user_id, sum(pe.amount) as total from public.payment_credit_entries as pe group by pe.user_id
    ) as e on b.user_id = e.user_id
    where b.balance <> coalesce(e.total, 0)
    union all
    select 'entries_have_a_balance', e.user_id::text, format('entries %s', sum(e.amount))
    from public.payment_credit_entries as e
    inner join auth.users as u on e.user_id = u.id
    where not exists (select from public.payment_credit_balances as b where b.user_id = e.user_id)
    group by e.user_id
    union all
    select 'subscription_covers_its_periods', p.user_id::text, p.tier
    from payments.subscription_periods as p
    inner join auth.users as u on p.user_id = u.id
    left join public.payment_subscriptions as s on p.user_id = s.user_id and p.tier = s.tier
    group by p.user_id, p.tier, s.ends_at
    having max(p.ends_at) is distinct from s.ends_at
    union all
    select 'completion_is_in_the_audit_trail', s.id::text, s.status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null
        and not exists (
            select from payments.session_events as e where e.session_id = s.id and e.to_status = 'completed'
        );
end;
$$;

comment on function public.check_payment_invariants() is
'The guarantees that do not hold, one row each: invariant, subject (a session or user id), detail. No rows: healthy. '
'Reads everything: run it at a quiet hour, or on a replica.';

revoke all on function public.check_payment_invariants() from public, anon, authenticated, service_role;
grant execute on function public.check_payment_invariants() to service_role;

create function public.cleanup_idempotency_keys(p_older_than interval default '24 hours')
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    delete from payments.idempotency_keys as k
    where k.updated_at < now() - p_older_than and (k.status <> 'pending' or k.leased_until < now());
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_idempotency_keys(interval) is
'Forgets finished and abandoned requests that are older, and returns how many.';

revoke all on function public.cleanup_idempotency_keys(interval) from public, anon, authenticated, service_role;
grant execute on function public.cleanup_idempotency_keys(interval) to service_role;

create function public.complete_checkout_session(
    p_session_id uuid,
    p_provider_session_id text default null,
    p_provider_payment_id text default null,
    p_amount bigint default null,
    p_currency text default null,
    p_provider_customer_id text default null,
    p_paid_at timestamptz default null,
    p_stripe_session_id text default null,
    p_stripe_customer_id text default null
)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_claim payments.captures;
begin
    perform payments.require_service();
    v_session := payments.session_by_id(p_session_id);
    v_claim.provider := case when nullif(p_stripe_session_id, '') is null then v_session.provider else 'stripe' end;
    v_claim.provider_session_id := coalesce(nullif(p_provider_session_id, ''), nullif(p_stripe_session_id, ''));
    v_claim.provider_payment_id := coalesce(nullif(p_provider_payment_id, ''), v_claim.provider_session_id);
    if v_claim.provider_payment_id is null then
        raise exception 'Which payment paid this session?'
            using errcode = 'PT422', detail = 'payment_id_required',
            hint = 'Pass p_provider_payment_id, or the provider''s session id.';
    end if;
    if p_amount < 0 or p_currency !~* '^[a-z]{3}$'
        or length(v_claim.provider_payment_id) > 255 or length(v_claim.provider_session_id) > 255
    then
        raise exception 'p_amount must not be negative, p_currency a code, provider ids at most 255 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Pass minor units and a code such as USD.';
    end if;
    v_claim.session_id := v_session.id;
    v_claim.attempt_number := v_session.current_attempt;
    v_claim.amount := coalesce(p_amount, v_session.amount);
    v_claim.currency := upper(coalesce(p_currency, v_session.currency));
    v_claim.paid_at := coalesce(p_paid_at, now());
    return payments.settle_capture(v_claim, coalesce(p_provider_customer_id, p_stripe_customer_id), 'verify', now());
end;
$$;

comment on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) is
'Completes and fulfils a session whose payment the caller has verified. Amount (minor units) and currency are compared '
'when given. Answers {session_id, status, already_completed, fulfilment_status, fulfilment, review_reason}. Raises '
'PT404 session_not_found, PT409 payment_reused, PT422 payment_id_required, invalid_input.';

revoke all on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) from public, anon, authenticated, service_role;
grant execute on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) to service_role;

create function public.expire_old_checkout_sessions(p_limit int default 10000)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    with due as (
        select s.id, s.status
        from public.payment_checkout_sessions as s
        where s.status in ('pending', 'processing') and s.expires_at <= now()
        order by s.expires_at
        limit p_limit
        for no key update skip locked
    ),

    expired as (
        update public.payment_checkout_sessions as s
        set status = 'expired', updated_at = now()
        from due
        where s.id = due.id
        returning s.id, due.status as from_status
    )

    insert into payments.session_events (session_id, from_status, to_status, source, reason, created_at)
    select expired.id, expired.from_status, 'expired', 'cron', 'lapsed', now()
    from expired;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.expire_old_checkout_sessions(int) is
'Expires up to p_limit lapsed sessions, oldest first, and returns how many. Sessions that another transaction holds '
'are left for the next call. Money that still arrives for an expired session is honoured.';

revoke all on function public.expire_old_checkout_sessions(int) from public, anon, authenticated, service_role;
grant execute on function public.expire_old_checkout_sessions(int) to service_role;

create function public.fail_checkout_session(p_session_id uuid, p_error_code text, p_error_message text default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    perform payments.move_session(
        p_session_id,
        array['pending', 'processing'],
        ('failed', 'admin', null, p_error_code, p_error_message),
        null,
        now()
    );
    v_session := payments.session_by_id(p_session_id);
    return payments.session_answer(v_session, v_session.completed_at is not null);
end;
$$;

comment on function public.fail_checkout_session(uuid, text, text) is
'Fails an open session; any other is left as it is and answered. Raises PT404 session_not_found.';

revoke all on function public.fail_checkout_session(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.fail_checkout_session(uuid, text, text) to service_role;

create function public.find_checkout_attempt(
    p_session_id uuid default null,
    p_reference text default null,
    p_provider text default null,
    p_provider_session_id text default null,
    p_user_id uuid default null
)
returns jsonb
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_attempt payments.attempts;
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    v_attempt := payments.find_attempt(p_provider, p_reference, p_session_id, p_provider_session_id, null);
    v_session := payments.session_by_id(v_attempt.session_id);
    if v_session.user_id <> p_user_id then
        raise exception 'This session belongs to another user.'
            using errcode = 'PT403', detail = 'not_your_session', hint = 'Sign in as the user who made the purchase.';
    end if;
    return payments.attempt_answer(v_session, v_attempt) || jsonb_build_object(
        'other_pages', payments.other_pages(v_session, v_attempt.number, now())
    );
end;
$$;

comment on function public.find_checkout_attempt(uuid, text, text, text, uuid) is
'The session and attempt that the bridge must ask the provider about, found by any one of the ids; p_user_id restricts '
'it to that buyer. Raises PT404 session_not_found, PT403 not_your_session.';

revoke all on function public.find_checkout_attempt(uuid, text, text, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function public.find_checkout_attempt(uuid, text, text, text, uuid) to service_role;

create function public.finish_idempotent_request(
    p_key text,
    p_status text,
    p_response jsonb,
    p_claim bigint default null
)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if p_status is null or p_status not in ('completed', 'failed') then
        raise exception 'p_status must be completed or failed.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'completed keeps the answer for repeats.';
    end if;
    -- a holder whose claim was taken over can neither end the new holder's work nor change what repeats are told
    update payments.idempotency_keys as k
    set status = p_status, response = p_response, updated_at = now()
    where k.key = p_key and k.status = 'pending' and k.claim = coalesce(p_claim, k.claim);
    if not found and not exists (select from payments.idempotency_keys as k where k.key = p_key) then
        raise exception 'No request was begun with this idempotency key.'
            using errcode = 'PT404', detail = 'idempotency_key_unknown', hint = 'Call begin_idempotent_request first.';
    end if;
end;
$$;

comment on function public.finish_idempotent_request(text, text, jsonb, bigint) is
'Ends a claimed request. completed: repeats get the response. failed: it had no effect, and the next call works again. '
'With p_claim, a holder that was taken over changes nothing. Raises PT404 idempotency_key_unknown, PT422 '
'invalid_input.';

revoke all on function public.finish_idempotent_request(text, text, jsonb, bigint)
from public, anon, authenticated, service_role;
grant execute on function public.finish_idempotent_request(text, text, jsonb, bigint) to service_role;

create function public.open_checkout_attempt(p_session_id uuid, p_provider text default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_provider text;
    v_attempt payments.attempts;
begin
    perform payments.require_service();
    v_session := payments.lock_session(p_session_id);
    v_provider := coalesce(p_provider, v_session.provider);
    perform payments.check_provider(v_provider);
    if v_session.status <> 'pending' then
        raise exception 'This session cannot be paid: it is %.', v_session.status
            using errcode = 'PT409', detail = 'session_not_pending', hint = 'Create a session for a new purchase.';
    end if;
    if v_session.expires_at <= now() then
        raise exception 'This session expired at %.', v_session.expires_at
            using errcode = 'PT410', detail = 'session_expired', hint = 'Call get_or_create_checkout_session again.';
    end if;
    v_attempt := payments.reusable_attempt(v_session, v_provider, now());
    if v_attempt.number is null then
        v_attempt := payments.new_attempt(v_session, v_provider, now());
    end if;
    return payments.attempt_answer(v_session, v_attempt) || jsonb_build_object(
        'other_pages', case
            when v_attempt.checkout_url is null then payments.other_pages(v_session, v_attempt.number, now())
            else '[]'
        end
    );
end;
$$;

comment on function public.open_checkout_attempt(uuid, text) is
'Stores the attempt before its page is opened, or gives the one whose page is still alive (checkout_url is then set). '
'Answers number, reference, amount (minor units), currency, email, product_name, expires_at and more; other_pages '
'are those to close first. Raises PT404 session_not_found, PT409 session_not_pending, PT410 session_expired, PT422 '
'provider_unknown.';

revoke all on function public.open_checkout_attempt(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.open_checkout_attempt(uuid, text) to service_role;

create function public.record_webhook_failure(p_provider text, p_event jsonb, p_error text, p_retryable boolean)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_event(p_event);
    insert into payments.webhook_events as e (provider, event_id, type, payload, status, error, received_at)
    values (
        p_provider, p_event ->> 'id', p_event ->> 'type', p_event -> 'payload',
        case when p_retryable then 'failed' else 'dead' end, left(p_error, 200), now()
    )
    on conflict (provider, event_id) do update
        set status = excluded.status, error = excluded.error, deliveries = e.deliveries + 1
        where e.status <> 'handled';
end;
$$;

comment on function public.record_webhook_failure(text, jsonb, text, boolean) is
'Keeps a genuine webhook that could not be applied, with its reason: failed when the provider will send it again, dead '
'when a person must look. A handled event is left alone. Raises PT422 event_invalid.';

revoke all on function public.record_webhook_failure(text, jsonb, text, boolean)
from public, anon, authenticated, service_role;
grant execute on function public.record_webhook_failure(text, jsonb, text, boolean) to service_role;

create function public.retry_fulfilment(p_session_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_grant payments.grant_result;
begin
    perform payments.require_service();
    v_session := payments.lock_session(p_session_id);
    if v_session.fulfilment_status <> 'failed' then
        raise exception 'Nothing to retry: the session is % and its fulfilment is %.',
            v_session.status, v_session.fulfilment_status
            using errcode = 'PT409', detail = 'nothing_to_retry',
            hint = 'Only paid sessions with fulfilment_status failed can be retried.';
    end if;
    v_grant := payments.fulfil(v_session);
    update public.payment_checkout_sessions as s
    set fulfilment_status = v_grant.fulfilment_status,
        fulfilment = v_grant.fulfilment,
        error_code = v_grant.error_code,
        error_message = v_grant.error_message,
        review_reason = case v_grant.fulfilment_status
            when 'failed' then payments.add_reason(s.review_reason, 'fulfilment_failed')
            else payments.drop_reason(s.review_reason, 'fulfilment_failed')
        end,
        updated_at = now()
    where s.id = p_session_id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin',
        case v_grant.fulfilment_status when 'failed' then 'fulfilment_failed' else 'fulfilment_retried' end, null, now(),
        v_grant.detail
    );
    return payments.session_answer(v_session, true);
end;
$$;

comment on function public.retry_fulfilment(uuid) is
'Tries again to give the buyer of a paid session what was paid for. Raises PT404 session_not_found, PT409 '
'nothing_to_retry.';

revoke all on function public.retry_fulfilment(uuid) from public, anon, authenticated, service_role;
grant execute on function public.retry_fulfilment(uuid) to service_role;

create function public.spend_credits(p_user_id uuid, p_amount bigint, p_reason text, p_idempotency_key text)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_source text := p_user_id || ':' || p_idempotency_key;
    v_balance bigint;
    v_spent bigint;
begin
    perform payments.require_service();
    if v_source is null or length(p_idempotency_key) not between 1 and 255 or coalesce(p_amount, 0) <= 0 then
        raise exception 'p_user_id, p_idempotency_key (1 to 255 characters) and a positive p_amount are needed.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Use one key per thing that is paid with credits.';
    end if;
    -- the entry first: of two calls with one key the second waits here, and then finds it
    insert into public.payment_credit_entries (user_id, amount, reason, source, note, created_at)
    values (p_user_id, -p_amount, 'spend', v_source, left(p_reason, 200), now())
    on conflict (reason, source) do nothing;
    if not found then
        select -e.amount into v_spent
        from public.payment_credit_entries as e
        where e.reason = 'spend' and e.source = v_source;
        if v_spent <> p_amount then
            raise exception 'This idempotency key was used for % credits.', v_spent
                using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for another spending.';
        end if;
        select b.balance into v_balance from public.payment_credit_balances as b where b.user_id = p_user_id;
        return jsonb_build_object('spent', p_amount, 'balance', v_balance, 'already_spent', true);
    end if;
    update public.payment_credit_balances as b
    set balance = b.balance - p_amount, updated_at = now()
    where b.user_id = p_user_id and b.balance >= p_amount
    returning b.balance into v_balance;
    if not found then
        raise exception 'Not enough credits for %.', p_amount
            using errcode = 'PT402', detail = 'insufficient_credits', hint = 'The user must buy credits first.';
    end if;
    return jsonb_build_object('spent', p_amount, 'balance', v_balance, 'already_spent', false);
end;
$$;

comment on function public.spend_credits(uuid, bigint, text, text) is
'Takes credits from a user, once per key, never below zero. p_reason is for the user''s statement. Answers {spent, '
'balance, already_spent}. Raises PT402 insufficient_credits, PT409 idempotency_conflict, PT422 invalid_input.';

revoke all on function public.spend_credits(uuid, bigint, text, text) from public, anon, authenticated, service_role;
grant execute on function public.spend_credits(uuid, bigint, text, text) to service_role;

-- Lets apps watch their session change (under RLS). The publication exists on Supabase, not on a plain Postgres; where
-- it belongs to another role or holds all tables already, there is nothing to do here.
do $$
begin
    if exists (
        select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime' and not p.puballtables
    ) then
        alter publication supabase_realtime add table public.payment_checkout_sessions;
    end if;
exception
    when insufficient_privilege then
        raise notice 'Add public.payment_checkout_sessions to the publication supabase_realtime as its owner.';
end;
$$;
