-- Purpose: the functions that clients and the bridge call, and Realtime.
-- Locks:   none that others wait for: every object is new (plus a brief lock on auth.users for its foreign keys).
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
