-- Purpose: a purchase takes fewer statements: sessions are looked at column by column before they are locked, settings
--          are read once, and the handlers of what is sold most are called without planning the call anew.
-- Locks:   none that a purchase waits for: functions, and a comment.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create function payments.refuse_unknown_session(p_session_id uuid)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'There is no checkout session %.', coalesce(p_session_id::text, 'without an id')
        using errcode = 'PT404', detail = 'session_not_found', hint = 'Check the session id or the reference.';
end;
$$;

comment on function payments.refuse_unknown_session(uuid) is
'For an id that no session has. Raises PT404 session_not_found.';

revoke all on function payments.refuse_unknown_session(uuid) from public, anon, authenticated, service_role;

create or replace function payments.session_by_id(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    select s.* into v_session from public.payment_checkout_sessions as s where s.id = p_session_id;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
    return v_session;
end;
$$;

comment on function payments.session_by_id(uuid) is 'Reads a session. Raises PT404 session_not_found.';

-- Lock order of the engine, everywhere: webhook event, purchase (late money and free sessions only), session, attempt,
-- coupon, group, balance or subscription, invoice counter.
-- FOR NO KEY UPDATE, so that foreign-key checks of other rows never wait for a payment.
create or replace function payments.lock_session(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    select s.* into v_session
    from public.payment_checkout_sessions as s
    where s.id = p_session_id
    for no key update;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
    return v_session;
end;
$$;

comment on function payments.lock_session(uuid) is
'Reads a session and locks it until the transaction ends. Raises PT404 session_not_found.';

-- What the user wants, checked and priced, as a session row that does not exist yet.
create or replace function payments.draft_session(
    p_plan text,
    p_user_id uuid,
    p_email text,
    p_price numeric,
    p_provider text,
    p_currency text,
    p_coupon text,
    p_subject text,
    p_metadata jsonb,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_draft public.payment_checkout_sessions;
    v_offer payments.offer;
begin
    select p_now + s.session_ttl into v_draft.expires_at from payments.settings as s where p_provider = any(s.providers);
    if not found then
        perform payments.check_provider(p_provider); -- says why not
    end if;
    v_offer := payments.make_offer(p_plan, p_currency, p_coupon);
    if p_price is not null then
        perform payments.check_expected_price(p_price, v_offer);
    end if;
    v_draft.user_id := p_user_id;
    -- who signed in by phone has the claim, but empty
    v_draft.email := coalesce(p_email, substring(
        auth.jwt() ->> 'email' from '^[^@[:space:][:cntrl:]]{1,160}@[^@[:space:][:cntrl:]]{1,159}$'
    ));
    v_draft.product_id := v_offer.product_id;
    v_draft.kind := v_offer.kind;
    v_draft.terms := v_offer.terms;
    v_draft.subject := p_subject;
    -- a coupon that takes the whole price leaves nothing to ask a provider for
    v_draft.provider := case when v_offer.amount > 0 then p_provider else 'none' end;
    v_draft.currency := v_offer.currency;
    v_draft.original_amount := v_offer.original_amount;
    v_draft.discount_amount := v_offer.discount_amount;
    v_draft.amount := v_offer.amount;
    v_draft.coupon_id := v_offer.coupon_id;
    v_draft.metadata := coalesce(p_metadata, '{}');
    return v_draft;
end;
$$;

comment on function payments.draft_session(
    text, uuid, text, numeric, text, text, text, text, jsonb, timestamptz
) is
'The session a caller asks for, before it is stored. Raises what its checks raise.';

-- Read first (cheap, writes nothing), insert with ON CONFLICT DO NOTHING, read again: the unique index decides races.
create or replace function payments.get_or_create_checkout_session(
    p_plan text,
    p_user_id uuid,
    p_email text,
    p_price numeric,
    p_provider text,
    p_currency text,
    p_coupon text,
    p_subject text,
    p_idempotency_key text,
    p_metadata jsonb
)
returns uuid
language plpgsql
volatile
security definer -- users hold no write rights on any table; require_user checks who calls
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(p_user_id);
    v_fingerprint text;
    v_draft public.payment_checkout_sessions;
    v_open public.payment_checkout_sessions;
    v_id uuid;
begin
    if coalesce(p_email, p_subject, p_idempotency_key) is not null or p_metadata <> '{}' then
        perform payments.check_buyer_input(p_email, p_subject, p_idempotency_key, p_metadata);
    end if;
    if p_idempotency_key is not null then
        v_fingerprint := md5(jsonb_build_array(
            p_plan, p_email, trim_scale(p_price), p_provider, upper(p_currency), p_coupon, p_subject, p_metadata
        )::text);
        v_id := payments.session_of_idempotency_key(v_user_id, p_idempotency_key, v_fingerprint, now());
        if v_id is not null then
            return v_id;
        end if;
    end if;
    v_draft := payments.draft_session(
        p_plan, v_user_id, p_email, p_price, p_provider, p_currency, p_coupon, p_subject, p_metadata, now()
    );
    v_draft.idempotency_key := p_idempotency_key;
    v_draft.idempotency_fingerprint := v_fingerprint;
    if v_draft.amount = 0 then
        v_id := payments.repeated_free_session(v_draft, now());
        if v_id is not null then
            return v_id;
        end if;
    end if;
    perform payments.check_sale(v_draft);
    -- each round that does not return has seen another transaction make progress
    for v_round in 1..20 loop
        select
            s.id, s.status, s.expires_at, s.provider, s.currency, s.amount, s.coupon_id, s.terms, s.email, s.idempotency_key
        into
            v_open.id, v_open.status, v_open.expires_at, v_open.provider, v_open.currency, v_open.amount, v_open.coupon_id,
            v_open.terms, v_open.email, v_open.idempotency_key
        from public.payment_checkout_sessions as s
        where s.user_id = v_draft.user_id
            and s.product_id = v_draft.product_id
            and (s.subject = v_draft.subject or (s.subject is null and v_draft.subject is null))
            and s.status in ('pending', 'processing');
        if found then
            v_id := payments.reuse_session(v_open, v_draft, now());
        else
            v_id := payments.create_session(v_draft, now());
        end if;
        if v_id is null and p_idempotency_key is not null then
            v_id := payments.session_of_idempotency_key(v_user_id, p_idempotency_key, v_fingerprint, now());
        end if;
        if v_id is not null then
            return v_id;
        end if;
    end loop;
    raise exception 'Too many changes to this purchase at once.'
        using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
end;
$$;

comment on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) is
'Body of public.get_or_create_checkout_session.';

create or replace function payments.read_outcome(p_outcome jsonb)
returns payments.outcome
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome payments.outcome;
    v_wrong text;
begin
    begin
        v_outcome := jsonb_populate_record(null::payments.outcome, p_outcome);
    exception
        when data_exception then
            v_wrong := concat_ws(': ', payments.wrong_outcome_field(p_outcome), sqlerrm);
    end;
    v_outcome.currency := upper(v_outcome.currency);
    v_outcome.source := coalesce(v_outcome.source, 'webhook');
    v_wrong := coalesce(v_wrong, case
        when v_outcome.provider is null or v_outcome.provider !~ '^[a-z][a-z0-9_-]{0,62}$' then 'provider is missing or no name'
        when v_outcome.status not in ('pending', 'processing', 'completed', 'failed', 'expired', 'cancelled')
            then 'status must be pending, processing, completed, failed, expired or cancelled'
        when v_outcome.source not in ('client', 'webhook', 'verify', 'return', 'reconcile', 'cron', 'admin')
            then 'source must be client, webhook, verify, return, reconcile, cron or admin'
        when v_outcome.refunds is not null and payments.wrong_refund_field(v_outcome.refunds) is not null
            then payments.wrong_refund_field(v_outcome.refunds)
        when v_outcome.status is null and not coalesce(v_outcome.disputed, false)
            and coalesce(jsonb_array_length(v_outcome.refunds), 0) = 0
            then 'status is missing'
        when v_outcome.status = 'completed' and coalesce(length(v_outcome.provider_payment_id), 0) not between 1 and 255
            then 'provider_payment_id must have 1 to 255 characters'
        when v_outcome.status = 'completed' and (v_outcome.amount is null or v_outcome.amount < 0)
            then 'amount must be an integer in minor units, not negative'
        when v_outcome.status = 'completed' and coalesce(v_outcome.currency, '') !~ '^[A-Z]{3}$'
            then 'currency must be an ISO 4217 code'
        when length(v_outcome.provider_session_id) > 255 or length(v_outcome.provider_customer_id) > 255
            or length(v_outcome.provider_payment_id) > 255
            then 'provider_session_id, provider_payment_id and provider_customer_id must have at most 255 characters'
        when v_outcome.currency !~ '^[A-Z]{3}$' then 'currency must be an ISO 4217 code'
        when v_outcome.paid_at not between '1970-01-01Z' and now() + interval '1 day'
            then 'paid_at must be a time between 1970 and now'
    end);
    if v_wrong is not null then
        raise exception 'The outcome is not valid: %.', v_wrong
            using errcode = 'PT422', detail = 'outcome_invalid', hint = 'Correct the field of p_outcome that the message names.';
    end if;
    return v_outcome;
end;
$$;

comment on function payments.read_outcome(jsonb) is 'Types and checks an outcome. Raises PT422 outcome_invalid.';

-- A handler that fails (a full group, a bug) leaves the session for review; passing trouble of the server (deadlock,
-- disk, shutdown) undoes everything, so that a retry can succeed.
create or replace function payments.run_handler(
    p_function text,
    p_session public.payment_checkout_sessions,
    p_share numeric default null
)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer jsonb;
    v_reason text;
begin
    if p_share is not null then
        execute format('select %s($1, $2)', p_function) into v_answer using p_session, p_share;
    -- EXECUTE parses and plans anew each time: what is sold most does not wait for that
    elsif p_function = 'payments.fulfil_credits' then
        v_answer := payments.fulfil_credits(p_session);
    elsif p_function = 'payments.fulfil_subscription' then
        v_answer := payments.fulfil_subscription(p_session);
    else
        execute format('select %s($1)', p_function) into v_answer using p_session;
    end if;
    -- what a handler deferred must fail here, not at commit
    set constraints all immediate;
    return ('fulfilled', v_answer, null, null, null)::payments.grant_result;
exception
    when assert_failure or others then
        get stacked diagnostics v_reason = pg_exception_detail;
        if sqlstate ~ '^(08|40|53[0-3]|55P03|57P|58)' then
            raise;
        end if;
        if sqlstate like 'PT%' then
            return ('failed', null, coalesce(nullif(v_reason, ''), 'handler_error'), left(sqlerrm, 500), null)::payments.grant_result;
        end if;
        return (
            'failed', null, 'handler_error', 'It could not be delivered yet.', left(sqlstate || ' ' || sqlerrm, 1000)
        )::payments.grant_result;
end;
$$;

comment on function payments.run_handler(text, public.payment_checkout_sessions, numeric) is
'Calls a handler (with a share, if one is given) and says how it went; never raises what a person must solve. A '
'handler that raises PTnnn speaks to the buyer; any other error is for operators only.';

-- Every proof of money ends here, whichever path it took. The capture's key and the index on settled captures decide
-- who was first; a replay only reads.
create or replace function payments.settle_capture(
    p_claim payments.captures,
    p_provider_customer_id text,
    p_source text,
    p_now timestamptz
)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures := p_claim;
    v_session public.payment_checkout_sessions;
    v_untouched boolean := exists (
        select from public.payment_checkout_sessions as s
        where s.id = p_claim.session_id and s.status = 'pending' and s.review_reason is null
    );
begin
    -- recorded money has left its mark on the session: an untouched one needs no look before the lock
    if not v_untouched then
        if payments.recognise_capture(p_claim, p_source, p_now) then
            v_session := payments.session_by_id(p_claim.session_id);
            return payments.session_answer(v_session, v_session.completed_at is not null);
        end if;
        v_session := payments.session_by_id(p_claim.session_id);
        if v_session.status in ('failed', 'expired', 'cancelled') then -- late money (yield_purchase)
            perform payments.lock_purchase(v_session);
        end if;
    end if;
    v_session := payments.lock_session(p_claim.session_id);
    -- the look behind the lock: the winner of a race has committed by now
    if payments.recognise_capture(p_claim, p_source, p_now) then
        v_session := payments.session_by_id(p_claim.session_id);
        return payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    v_capture.disposition := case
        when v_session.status in ('completed', 'partially_refunded', 'refunded') then 'duplicate'
        when v_capture.currency <> v_session.currency then 'currency_mismatch'
        when v_capture.amount < v_session.amount then 'amount_mismatch'
        else 'settled'
    end;
    v_capture.created_at := p_now;
    insert into payments.captures select v_capture.* on conflict do nothing;
    if not found then
        perform payments.recognise_capture(p_claim, p_source, p_now);
        raise exception 'This payment is being recorded by another call.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
    end if;
    case v_capture.disposition
        when 'settled' then
            v_session := payments.complete_session(v_session, v_capture, p_provider_customer_id, p_source, p_now);
        when 'duplicate' then
            v_session := payments.flag_session(v_session, 'duplicate_payment', p_source, v_capture.paid_at, p_now);
        else
            v_session := payments.refuse_capture(v_session, v_capture, p_source, p_now);
    end case;
    -- a refund whose news overtook the payment's
    if exists (select from public.payment_refunds as r where r.session_id = v_session.id) then
        v_session := payments.settle_refunds(v_session, p_source, null, p_now);
    end if;
    return payments.session_answer(v_session, v_capture.disposition = 'duplicate');
end;
$$;

comment on function payments.settle_capture(payments.captures, text, text, timestamptz) is
'Records money proven received and does what it calls for: complete and fulfil, flag, or refuse. '
'Raises PT404 session_not_found, PT409 payment_reused, PT503 try_again.';

create or replace function public.complete_checkout_session(
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
    select s.id, s.provider, s.current_attempt, s.amount, s.currency
    into v_session.id, v_session.provider, v_session.current_attempt, v_session.amount, v_session.currency
    from public.payment_checkout_sessions as s
    where s.id = p_session_id;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
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
        or length(coalesce(p_provider_customer_id, p_stripe_customer_id)) > 255
        or p_paid_at not between '1970-01-01Z' and now() + interval '1 day'
    then
        raise exception 'p_amount must not be negative, p_currency a code, provider ids at most 255 characters, p_paid_at past.'
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

-- Attempts, money, history and documents outlive their session, and so does its story.
create or replace function public.checkout_session_story(p_session_id uuid)
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
        perform payments.refuse_unknown_session(p_session_id);
    end if;
end;
$$;

comment on function public.checkout_session_story(uuid) is
'All that happened to a session, in order of time: {at, kind, title, detail}. kind is session (as it is now), attempt, '
'alert, webhook, capture, refund, state, credits, invoice or notification; detail holds what an operator needs of the '
'row, without what is null, amounts in minor units. No payloads of webhooks, addresses of pages, or metadata. Raises '
'PT404 session_not_found.';

comment on column payments.attempts.status is
'The last word of the provider on this page. It only advances: open, processing, then failed, expired or cancelled; '
'but one that failed before it had a page is open again once it gets one. Money is in payments.captures, not here.';
