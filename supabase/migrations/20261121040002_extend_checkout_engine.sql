-- Purpose: the engine behind them: coupons, groups, refunds, invoices, notifications, limits and invariants.
-- Locks:   none on tables; the functions of the engine are replaced.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

-- squawk-ignore-file ban-drop-function
-- Nothing but the engine, which is replaced below, calls these.
drop function payments.flag_money_taken_back(payments.outcome, uuid, timestamptz);
drop function payments.flag_session(public.payment_checkout_sessions, text, text, timestamptz, timestamptz);

create function payments.check_limit(p_limit int)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_limit is null or p_limit < 0 then
        raise exception 'p_limit must be 0 or more.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out for the default.';
    end if;
end;
$$;

comment on function payments.check_limit(int) is 'Raises PT422 invalid_input.';

revoke all on function payments.check_limit(int) from public, anon, authenticated, service_role;

-- Ids are time-ordered, so a time is a place in the primary key: ranges of time need no index of their own.
create function payments.first_id_at(p_time timestamptz)
returns uuid
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        lpad(to_hex(greatest(extract(epoch from p_time) * 1000, 0)::bigint), 12, '0') || '70008000000000000000'
    )::uuid;
end;
$$;

comment on function payments.first_id_at(timestamptz) is
'The smallest id that new_time_ordered_id can make at a time: sessions from then on have that id or a larger one.';

revoke all on function payments.first_id_at(timestamptz) from public, anon, authenticated, service_role;

create function payments.seconds_since(p_time timestamptz)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return extract(epoch from now() - p_time)::bigint;
end;
$$;

comment on function payments.seconds_since(timestamptz) is 'Age in whole seconds; null for no time.';

revoke all on function payments.seconds_since(timestamptz) from public, anon, authenticated, service_role;

create or replace function payments.check_buyer_input(
    p_email text, p_subject text, p_idempotency_key text, p_metadata jsonb
)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_wrong text;
begin
    v_wrong := case
        when length(p_email) > 320 or p_email !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$'
            then 'p_email must be an e-mail address of at most 320 characters'
        when length(p_subject) not between 1 and 200 or p_subject ~ '[[:cntrl:]]'
            then 'p_subject must have 1 to 200 characters, none of them a control character'
        when length(p_idempotency_key) not between 1 and 255 or p_idempotency_key ~ '[[:cntrl:]]'
            then 'p_idempotency_key must have 1 to 255 characters, none of them a control character'
        when jsonb_typeof(p_metadata) <> 'object' or octet_length(p_metadata::text) > 8192
            then 'p_metadata must be a JSON object of at most 8192 bytes'
    end;
    if v_wrong is not null then
        raise exception '%.', v_wrong
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Correct the argument that the message names.';
    end if;
end;
$$;

comment on function payments.check_buyer_input(text, text, text, jsonb) is
'Checks what buyers may type; nulls are fine. Raises PT422 invalid_input.';

revoke all on function payments.check_buyer_input(text, text, text, jsonb)
from public, anon, authenticated, service_role;

-- The client says what it showed the buyer; it can never choose what is charged.
create or replace function payments.check_expected_price(p_price numeric, p_offer payments.offer)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (case
        -- no bigint holds what is larger: the product of a wild number is not even a number
        when p_price > 1e19 then true
        else p_price * (10::numeric ^ payments.currency_exponent(p_offer.currency)) <> p_offer.amount
    end) then
        raise exception 'The price is not % %.', left(p_price::text, 40), p_offer.currency
            using errcode = 'PT422', detail = 'price_mismatch', hint = format(
                'The amount is %s in minor units of %s. Show it with quote_checkout, or leave p_price out.',
                p_offer.amount, p_offer.currency);
    end if;
end;
$$;

comment on function payments.check_expected_price(numeric, payments.offer) is
'Compares a price in major units with the offer; null is no expectation. Raises PT422 price_mismatch.';

revoke all on function payments.check_expected_price(numeric, payments.offer)
from public, anon, authenticated, service_role;

create or replace function payments.check_provider(p_provider text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_providers text[];
begin
    select s.providers into v_providers from payments.settings as s;
    if p_provider is null or p_provider <> all(v_providers) then
        raise exception 'There is no payment provider %.', coalesce(quote_literal(left(p_provider, 64)), 'without a name')
            using errcode = 'PT422', detail = 'provider_unknown',
            hint = format('p_provider can be one of: %s.', array_to_string(v_providers, ', '));
    end if;
end;
$$;

comment on function payments.check_provider(text) is
'Accepts the providers of payments.settings. Raises PT422 provider_unknown.';

revoke all on function payments.check_provider(text) from public, anon, authenticated, service_role;

create function payments.create_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
    v_session public.payment_checkout_sessions := p_draft;
    v_nothing payments.captures;
begin
    v_id := payments.insert_session(p_draft, p_now);
    if v_id is null then
        return null;
    end if;
    perform payments.limit_new_sessions(p_draft.user_id, p_now);
    if p_draft.coupon_id is not null then
        v_session.id := v_id;
        perform payments.reserve_coupon(v_session, p_now);
    end if;
    if p_draft.amount = 0 then
        v_nothing.provider := 'none';
        v_nothing.amount := 0;
        v_nothing.currency := p_draft.currency;
        v_nothing.paid_at := p_now;
        perform payments.complete_session(payments.lock_session(v_id), v_nothing, null, 'client', p_now);
    end if;
    return v_id;
end;
$$;

comment on function payments.create_session(public.payment_checkout_sessions, timestamptz) is
'Stores a draft with its coupon place, and completes it when nothing is to be paid; null when another open session or '
'key stands in its way. Raises PT429 too_many_requests, PT409 coupon_exhausted, PT422 user_unknown.';

revoke all on function payments.create_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

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
    perform payments.check_provider(p_provider);
    v_draft.user_id := p_user_id;
    v_offer := payments.make_offer(p_plan, p_currency, p_coupon);
    perform payments.check_expected_price(p_price, v_offer);
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
    v_draft.expires_at := p_now + (select s.session_ttl from payments.settings as s);
    return v_draft;
end;
$$;

comment on function payments.draft_session(
    text, uuid, text, numeric, text, text, text, text, jsonb, timestamptz
) is
'The session a caller asks for, before it is stored. Raises what its checks raise.';

revoke all on function payments.draft_session(
    text, uuid, text, numeric, text, text, text, text, jsonb, timestamptz
) from public, anon, authenticated, service_role;

-- Money is never silently dropped: what the engine cannot settle gets a reason that a person must look at.
create or replace function payments.flag_session(
    p_session public.payment_checkout_sessions,
    p_reason text,
    p_source text,
    p_occurred_at timestamptz,
    p_now timestamptz,
    p_detail text default null
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    update public.payment_checkout_sessions as s
    set review_reason = payments.add_reason(s.review_reason, p_reason), updated_at = p_now
    where s.id = p_session.id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session.id, p_session.status, p_session.status, p_source, p_reason, p_occurred_at, p_now, p_detail
    );
    perform payments.queue_notification(v_session, 'review_alert', p_reason, '{}', p_now);
    return v_session;
end;
$$;

comment on function payments.flag_session(
    public.payment_checkout_sessions, text, text, timestamptz, timestamptz, text
) is
'Marks a session for review, whatever its status, says so in the audit trail and alerts the operator.';

revoke all on function payments.flag_session(
    public.payment_checkout_sessions, text, text, timestamptz, timestamptz, text
) from public, anon, authenticated, service_role;

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
    v_fingerprint text := md5(jsonb_build_array(
        p_plan, p_email, trim_scale(p_price), p_provider, upper(p_currency), p_coupon, p_subject, p_metadata
    )::text);
    v_draft public.payment_checkout_sessions;
    v_open public.payment_checkout_sessions;
    v_id uuid;
begin
    perform payments.check_buyer_input(p_email, p_subject, p_idempotency_key, p_metadata);
    v_id := payments.session_of_idempotency_key(v_user_id, p_idempotency_key, v_fingerprint, now());
    if v_id is not null then
        return v_id;
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
        select s.* into v_open
        from public.payment_checkout_sessions as s
        where s.user_id = v_draft.user_id
            and s.product_id = v_draft.product_id
            and (s.subject = v_draft.subject or (s.subject is null and v_draft.subject is null))
            and s.status in ('pending', 'processing');
        v_id := case
            when found then payments.reuse_session(v_open, v_draft, now())
            else payments.create_session(v_draft, now())
        end;
        v_id := coalesce(
            v_id, payments.session_of_idempotency_key(v_user_id, p_idempotency_key, v_fingerprint, now())
        );
        exit when v_id is not null;
    end loop;
    if v_id is null then
        raise exception 'Too many changes to this purchase at once.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
    end if;
    return v_id;
end;
$$;

comment on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) is
'Body of public.get_or_create_checkout_session.';

revoke all on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) from public, anon, authenticated, service_role;
grant execute on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) to authenticated, service_role;

-- Comes before the session in the lock order: whoever holds a session and finds out too late does not wait.
create function payments.lock_purchase(p_session public.payment_checkout_sessions, p_wait boolean default true)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_key bigint := hashtextextended(
        concat_ws(' ', p_session.user_id, p_session.product_id, p_session.subject), 7243920
    );
begin
    if p_wait then
        perform pg_advisory_xact_lock(v_key);
    elsif not pg_try_advisory_xact_lock(v_key) then
        raise exception 'Another session of this purchase is being paid at the same time.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
    end if;
end;
$$;

comment on function payments.lock_purchase(public.payment_checkout_sessions, boolean) is
'Makes transactions about the same user, product and subject wait for each other, where no row could. Raises PT503 '
'try_again when it may not wait.';

revoke all on function payments.lock_purchase(public.payment_checkout_sessions, boolean)
from public, anon, authenticated, service_role;

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
        return payments.session_by_id(p_session_id);
    end if;
    return v_session;
end;
$$;

comment on function payments.lock_session(uuid) is
'Reads a session and locks it until the transaction ends. Raises PT404 session_not_found.';

revoke all on function payments.lock_session(uuid) from public, anon, authenticated, service_role;

create or replace function payments.make_offer(p_plan text, p_currency text, p_coupon text)
returns payments.offer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_product public.payment_products;
    v_price public.payment_prices;
    v_coupon_id text;
    v_discount bigint := 0;
begin
    select p.* into v_product from public.payment_products as p where p.id = p_plan and p.active;
    if not found then
        raise exception 'There is no product %.', coalesce(quote_literal(left(p_plan, 64)), 'without a name')
            using errcode = 'PT404', detail = 'product_unknown', hint = 'p_plan is the id of an active payment_products row.';
    end if;
    select pr.* into v_price
    from public.payment_prices as pr
    where pr.product_id = p_plan and case when p_currency is null then pr.is_default else pr.currency = upper(p_currency) end;
    if not found then
        raise exception 'Product % has no price in %.', p_plan, coalesce(left(p_currency, 64), 'a default currency')
            using errcode = 'PT422', detail = 'currency_unavailable', hint = format(
                'p_currency can be one of: %s.',
                (select string_agg(pr.currency, ', ' order by pr.currency)
                 from public.payment_prices as pr where pr.product_id = p_plan));
    end if;
    if p_coupon is not null then
        select c.coupon_id, c.discount_amount into v_coupon_id, v_discount
        from payments.apply_coupon(p_coupon, v_price, now()) as c;
    end if;
    return (
        v_product.id, v_product.kind, v_product.name, v_product.terms,
        v_price.currency, v_price.amount, v_discount, v_price.amount - v_discount, v_coupon_id
    )::payments.offer;
end;
$$;

comment on function payments.make_offer(text, text, text) is
'The current offer for a product. Raises PT404 product_unknown, PT422 currency_unavailable, coupon_unknown, '
'coupon_expired, coupon_not_applicable.';

revoke all on function payments.make_offer(text, text, text) from public, anon, authenticated, service_role;
grant execute on function payments.make_offer(text, text, text) to authenticated, service_role;

-- Every change of status of an unpaid session goes through here: one conditional statement that also writes the audit
-- row. (Completion: complete_session. Refunds: settle_refunds. Many at once: expire_old_checkout_sessions.)
create or replace function payments.move_session(
    p_session_id uuid,
    p_from text[],
    p_move payments.move,
    p_occurred_at timestamptz,
    p_now timestamptz
)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    with old as (
        select s.id, s.status
        from public.payment_checkout_sessions as s
        where s.id = p_session_id
        for no key update
    ),

    moved as (
        update public.payment_checkout_sessions as s
        set status = p_move.to_status,
            error_code = left(p_move.error_code, 255),
            error_message = left(p_move.error_message, 500),
            expires_at = case
                when p_move.to_status = 'processing' then p_now + (select t.processing_ttl from payments.settings as t)
                else s.expires_at
            end,
            updated_at = p_now
        from old
        where s.id = old.id and old.status = any(p_from)
        returning old.status as from_status
    )

    insert into payments.session_events (session_id, from_status, to_status, source, reason, occurred_at, created_at)
    select p_session_id, moved.from_status, p_move.to_status, p_move.source, p_move.reason, p_occurred_at, p_now
    from moved;
    if not found then
        return false;
    end if;
    if p_move.to_status in ('failed', 'expired', 'cancelled') then
        perform payments.release_coupon(p_session_id, 'reserved', p_now);
    end if;
    return true;
end;
$$;

comment on function payments.move_session(uuid, text[], payments.move, timestamptz, timestamptz) is
'Moves a session out of one of the given states, and gives up its coupon place when it ends; false when it was in none '
'of them, and then nothing changed.';

revoke all on function payments.move_session(uuid, text[], payments.move, timestamptz, timestamptz)
from public, anon, authenticated, service_role;

-- A session that costs nothing is never open, so the index on open ones cannot recognise a double click. The same free
-- purchase within the life of a session is a repeat, unless the caller says with a new key that it is another one.
create function payments.repeated_free_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile -- looks again behind the lock
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.lock_purchase(p_draft);
    if p_draft.idempotency_key is not null then
        return payments.session_of_idempotency_key(
            p_draft.user_id, p_draft.idempotency_key, p_draft.idempotency_fingerprint, p_now
        );
    end if;
    return (
        select s.id
        from payments.sessions_of_purchase(p_draft) as s
        where s.provider = 'none'
            and s.coupon_id = p_draft.coupon_id
            and s.status = 'completed'
            and s.created_at > p_now - (select t.session_ttl from payments.settings as t)
        order by s.id desc
        limit 1
    );
end;
$$;

comment on function payments.repeated_free_session(public.payment_checkout_sessions, timestamptz) is
'The completed session of the same purchase with the same coupon, if there is one; others that ask wait for its end.';

revoke all on function payments.repeated_free_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

create or replace function payments.session_answer(
    p_session public.payment_checkout_sessions, p_already_completed boolean
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'session_id', p_session.id,
        'status', p_session.status,
        'already_completed', p_already_completed,
        'fulfilment_status', p_session.fulfilment_status,
        'fulfilment', p_session.fulfilment,
        'review_reason', p_session.review_reason
    ) || case
        when p_session.fulfilment ? 'position' then jsonb_build_object('position', p_session.fulfilment -> 'position')
        else '{}'
    end;
end;
$$;

comment on function payments.session_answer(public.payment_checkout_sessions, boolean) is
'What every function that settles money answers; with the position when a slot of a group was bought.';

revoke all on function payments.session_answer(public.payment_checkout_sessions, boolean)
from public, anon, authenticated, service_role;

-- Providers repeat themselves and their notifications overtake each other: the word of an attempt only advances, so a
-- "processing" that arrives after "failed" changes nothing.
create or replace function payments.advance_attempt(p_number bigint, p_outcome payments.outcome)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update payments.attempts as a
    set status = p_outcome.status,
        error_code = left(p_outcome.error_code, 255),
        error_message = left(p_outcome.error_message, 500)
    where a.number = p_number
        and (a.status = 'open' or (a.status = 'processing' and p_outcome.status <> 'processing'));
    return found;
end;
$$;

comment on function payments.advance_attempt(bigint, payments.outcome) is
'Notes what the provider says of an attempt; false when it had said as much or more before.';

revoke all on function payments.advance_attempt(bigint, payments.outcome)
from public, anon, authenticated, service_role;

-- The current page has ended. Money may still be on its way from another page of the session: then that one speaks now.
create or replace function payments.hand_over(p_session public.payment_checkout_sessions, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_number bigint;
begin
    update public.payment_checkout_sessions as s
    set current_attempt = a.number, updated_at = p_now
    from payments.attempts as a
    where s.id = p_session.id
        and s.status = 'processing'
        and a.session_id = p_session.id
        and a.number <> p_session.current_attempt
        and a.status = 'processing'
    returning a.number into v_number;
    update payments.attempts as a
    set reconcile_at = p_now + (select s.reconcile_after[1] from payments.settings as s)
    where a.number = v_number and a.reconcile_at is null;
    return v_number is not null;
end;
$$;

comment on function payments.hand_over(public.payment_checkout_sessions, timestamptz) is
'Makes another attempt whose payment is under way the session''s current one; false when there is none.';

revoke all on function payments.hand_over(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

create or replace function payments.new_attempt(
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

create function payments.next_reconcile(p_session public.payment_checkout_sessions, p_now timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_waits interval[];
    v_attempt payments.attempts;
    v_last timestamptz;
begin
    select s.reconcile_after into v_waits from payments.settings as s;
    select a.* into v_attempt from payments.attempts as a where a.number = p_session.current_attempt;
    -- a page may outlive its session, and providers tell the end of a page some time after it
    v_last := greatest(p_session.expires_at, v_attempt.expires_at) + v_waits[1];
    return case
        when p_session.completed_at is not null or v_attempt.status in ('failed', 'expired', 'cancelled') then null
        when p_now >= v_last then null
        else least(p_now + v_waits[least(v_attempt.reconcile_tries + 1, cardinality(v_waits))], v_last)
    end;
end;
$$;

comment on function payments.next_reconcile(public.payment_checkout_sessions, timestamptz) is
'When the provider is asked about the session''s current page next: after the growing waits of '
'settings.reconcile_after, and once more when session and page have expired; null when there is nothing left to ask.';

revoke all on function payments.next_reconcile(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

create or replace function payments.apply_outcome(
    p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz
)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claim payments.captures := payments.claim_of_outcome(p_outcome, p_attempt, p_now);
    v_session public.payment_checkout_sessions;
    v_answer jsonb;
begin
    if not exists (select from public.payment_checkout_sessions as s where s.id = p_attempt.session_id) then
        if p_outcome.status = 'completed' then
            perform payments.keep_orphaned_money(v_claim, p_now);
        end if;
        v_session.id := p_attempt.session_id;
        perform payments.record_refund(r, p_outcome.source, p_now) from payments.read_refunds(p_outcome, v_session) as r;
        return jsonb_build_object('session_id', p_attempt.session_id, 'review_reason', 'session_deleted');
    end if;
    if p_outcome.status = 'completed' then
        v_answer := payments.settle_capture(v_claim, p_outcome.provider_customer_id, p_outcome.source, p_now);
    elsif p_outcome.status in ('processing', 'failed', 'expired', 'cancelled') then
        v_answer := payments.apply_page_outcome(p_outcome, p_attempt, p_now);
    else
        v_session := payments.session_by_id(p_attempt.session_id);
        v_answer := payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    if p_outcome.disputed or jsonb_array_length(p_outcome.refunds) > 0 then
        v_answer := payments.apply_refunds(p_outcome, p_attempt.session_id, p_now);
    end if;
    return v_answer;
end;
$$;

comment on function payments.apply_outcome(payments.outcome, payments.attempts, timestamptz) is
'Does what an outcome calls for and answers the session as it is then.';

revoke all on function payments.apply_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;

-- The buyer paid with a method that takes days. That can also happen on the page of a session that has since expired,
-- failed or been cancelled; a newer session that then holds the purchase's only open place gives way if it is unpaid.
create or replace function payments.begin_processing(
    p_session public.payment_checkout_sessions,
    p_attempt_number bigint,
    p_outcome payments.outcome,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rival_id uuid;
    v_rival_processing boolean := false;
begin
    if p_session.status in ('failed', 'expired', 'cancelled') then
        select s.id into v_rival_id
        from payments.sessions_of_purchase(p_session) as s
        where s.status in ('pending', 'processing');
        perform payments.move_session(
            v_rival_id, array['pending'], ('cancelled', p_outcome.source, 'superseded', null, null), null, p_now
        );
        v_rival_processing := exists (
            select from payments.sessions_of_purchase(p_session) as s where s.status = 'processing'
        );
    end if;
    if v_rival_processing or (p_session.status = 'processing' and p_session.current_attempt <> p_attempt_number) then
        perform payments.flag_session(p_session, 'second_payment_processing', p_outcome.source, p_outcome.paid_at, p_now);
    elsif payments.move_session(
        p_session.id,
        array['pending', 'failed', 'expired', 'cancelled'],
        ('processing', p_outcome.source, null, null, null),
        p_outcome.paid_at,
        p_now
    ) then
        update public.payment_checkout_sessions as s
        set current_attempt = coalesce(p_attempt_number, s.current_attempt)
        where s.id = p_session.id;
        -- it may have left the reconciler's queue while another page was the current one
        update payments.attempts as a
        set reconcile_at = p_now + (select s.reconcile_after[1] from payments.settings as s)
        where a.number = p_attempt_number and a.reconcile_at is null;
    end if;
exception
    when unique_violation then -- a rival that appeared after the look above
        raise exception 'Another session of this purchase was opened at the same time.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
end;
$$;

comment on function payments.begin_processing(
    public.payment_checkout_sessions, bigint, payments.outcome, timestamptz
) is
'Moves a locked session to processing and makes the attempt that is being paid its current one. Raises PT503 '
'try_again.';

revoke all on function payments.begin_processing(
    public.payment_checkout_sessions, bigint, payments.outcome, timestamptz
) from public, anon, authenticated, service_role;

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
        when payments.wrong_refund_field(v_outcome.refunds) is not null then payments.wrong_refund_field(v_outcome.refunds)
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

revoke all on function payments.read_outcome(jsonb) from public, anon, authenticated, service_role;

-- The one place where a session becomes completed: handler, then one update of the locked row, then what tells of it.
-- The invoice comes last: its counter is the one lock that all purchases share.
create or replace function payments.complete_session(
    p_session public.payment_checkout_sessions,
    p_capture payments.captures,
    p_provider_customer_id text,
    p_source text,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_grant payments.grant_result;
    v_review text;
    v_session public.payment_checkout_sessions;
begin
    if p_session.status in ('failed', 'expired', 'cancelled') then
        v_review := payments.yield_purchase(p_session, p_source, p_now);
    end if;
    if p_capture.amount > p_session.amount then
        v_review := payments.add_reason(v_review, 'overpaid');
    end if;
    if p_session.coupon_id is not null then
        perform payments.confirm_coupon(p_session, p_now);
    end if;
    v_grant := payments.fulfil(p_session);
    if v_grant.fulfilment_status = 'failed' then
        v_review := payments.add_reason(v_review, 'fulfilment_failed');
    end if;
    update public.payment_checkout_sessions as s
    set status = 'completed',
        provider = p_capture.provider,
        provider_session_id = coalesce(p_capture.provider_session_id, s.provider_session_id),
        provider_payment_id = p_capture.provider_payment_id,
        provider_customer_id = coalesce(p_provider_customer_id, s.provider_customer_id),
        fulfilment_status = v_grant.fulfilment_status,
        fulfilment = v_grant.fulfilment,
        error_code = v_grant.error_code,
        error_message = v_grant.error_message,
        review_reason = payments.add_reason(s.review_reason, v_review),
        completed_at = p_now,
        updated_at = p_now
    where s.id = p_session.id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session.id, p_session.status, 'completed', p_source, v_review, p_capture.paid_at, p_now, v_grant.detail
    );
    perform payments.queue_notification(v_session, 'review_alert', reason, '{}', p_now)
    from unnest(string_to_array(v_review, ', ')) as reason;
    perform payments.queue_notification(v_session, 'receipt', '', '{}', p_now);
    perform payments.issue_document('invoice', v_session, v_session.amount, p_now);
    return v_session;
end;
$$;

comment on function payments.complete_session(
    public.payment_checkout_sessions, payments.captures, text, text, timestamptz
) is
'Fulfils and completes a locked session whose capture was just recorded as settled, or that costs nothing; queues the '
'receipt and issues the invoice.';

revoke all on function payments.complete_session(
    public.payment_checkout_sessions, payments.captures, text, text, timestamptz
) from public, anon, authenticated, service_role;

-- A capture that was recorded under its page's id gets the payment's own, and the amount that the provider states: the
-- caller who knew only the page had to assume the price.
create or replace function payments.name_capture(
    p_known payments.captures,
    p_claim payments.captures,
    p_source text,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_known.session_id);
    v_capture payments.captures;
    v_reason text;
begin
    update payments.captures as c
    set provider_payment_id = p_claim.provider_payment_id, amount = p_claim.amount, currency = p_claim.currency
    where c.provider = p_known.provider and c.provider_payment_id = p_known.provider_payment_id
    returning c.* into v_capture;
    if not found then
        return;
    end if;
    update public.payment_refunds as r
    set provider_payment_id = p_claim.provider_payment_id
    where r.session_id = v_session.id
        and r.provider = p_known.provider
        and r.provider_payment_id = p_known.provider_payment_id;
    if p_known.disposition = 'settled' then
        update public.payment_checkout_sessions as s
        set provider_payment_id = p_claim.provider_payment_id, updated_at = p_now
        where s.id = v_session.id;
        v_reason := payments.trouble_of_capture(v_capture, v_session);
        if payments.add_reason(v_session.review_reason, v_reason) is distinct from v_session.review_reason then
            perform payments.flag_session(v_session, v_reason, p_source, p_claim.paid_at, p_now);
        end if;
    end if;
    -- refunds that named the payment before we knew it, or were weighed against the assumed amount; and what was
    -- assumed may have looked worse than the truth
    perform payments.settle_refunds(payments.session_by_id(v_session.id), p_source, p_claim.paid_at, p_now);
end;
$$;

comment on function payments.name_capture(payments.captures, payments.captures, text, timestamptz) is
'Gives a capture that is known by its page the payment''s own id; flags the session when the money is not what was '
'assumed.';

revoke all on function payments.name_capture(payments.captures, payments.captures, text, timestamptz)
from public, anon, authenticated, service_role;

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
begin
    if payments.recognise_capture(p_claim, p_source, p_now) then
        v_session := payments.session_by_id(p_claim.session_id);
        return payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    -- late money locks the purchase first (yield_purchase)
    perform payments.lock_purchase(s)
    from public.payment_checkout_sessions as s
    where s.id = p_claim.session_id and s.status in ('failed', 'expired', 'cancelled');
    v_session := payments.lock_session(p_claim.session_id);
    -- a second look behind the lock: the winner of a race has committed by now
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
    v_session := case v_capture.disposition
        when 'settled' then payments.complete_session(v_session, v_capture, p_provider_customer_id, p_source, p_now)
        when 'duplicate' then
            payments.flag_session(v_session, 'duplicate_payment', p_source, v_capture.paid_at, p_now)
        else payments.refuse_capture(v_session, v_capture, p_source, p_now)
    end;
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

revoke all on function payments.settle_capture(payments.captures, text, text, timestamptz)
from public, anon, authenticated, service_role;

-- Late money: an expired, failed or cancelled session is being paid after all. A newer session of the same purchase
-- must not tempt the buyer to pay again: if it is unpaid it is cancelled, if it is paid a person looks at the two.
create or replace function payments.yield_purchase(
    p_session public.payment_checkout_sessions, p_source text, p_now timestamptz
)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rival uuid;
begin
    -- two late payments of one purchase must see each other, and may not wait for each other's rows
    perform payments.lock_purchase(p_session, p_wait => false);
    -- a rival that is replaced while we wait for it has a successor: look until there is none
    loop
        select s.id into v_rival
        from payments.sessions_of_purchase(p_session) as s
        where s.status = 'pending';
        exit when not found;
        perform payments.move_session(
            v_rival, array['pending'], ('cancelled', p_source, 'superseded', null, null), null, p_now
        );
    end loop;
    return case
        when exists (
            select from payments.sessions_of_purchase(p_session) as s
            where s.id <> p_session.id
                and (s.status = 'processing' or s.completed_at >= p_session.created_at)
        ) then 'paid_twice'
    end;
end;
$$;

comment on function payments.yield_purchase(public.payment_checkout_sessions, text, timestamptz) is
'Cancels an unpaid newer session of a purchase that late money settles; returns paid_twice when another one is paid or '
'about to be.';

revoke all on function payments.yield_purchase(public.payment_checkout_sessions, text, timestamptz)
from public, anon, authenticated, service_role;

create function payments.check_contribution(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_draft);
    v_cycle int := payments.cycle_of_session(p_draft);
begin
    if not exists (
        select from public.payment_group_members as m
        where m.group_id = v_group.id and m.user_id = p_draft.user_id and m.status = 'active'
    ) then
        raise exception 'This user is not a member of group %.', v_group.id
            using errcode = 'PT409', detail = 'not_a_member', hint = 'Join the group first.';
    end if;
    if exists (
        select from public.payment_contributions as c
        where c.group_id = v_group.id and c.user_id = p_draft.user_id and c.cycle = v_cycle and c.status = 'paid'
    ) then
        raise exception 'Cycle % of group % is paid.', v_cycle, v_group.id
            using errcode = 'PT409', detail = 'contribution_paid', hint = 'Pay the next cycle.';
    end if;
end;
$$;

comment on function payments.check_contribution(public.payment_checkout_sessions) is
'Refuses to sell a cycle to somebody who owes none. Raises PT404 group_unknown, PT409 not_a_member, contribution_paid, '
'PT422 invalid_input, group_product_mismatch.';

revoke all on function payments.check_contribution(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.check_group_create(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.check_group_metadata(p_draft, (p_draft.terms ->> 'capacity')::int);
    if not exists (
        select from public.payment_products as p
        where p.id = p_draft.terms ->> 'contribution_product' and p.kind = 'contribution'
    ) or (
        p_draft.terms ->> 'join_product' is not null
        and not exists (
            select from public.payment_products as p
            where p.id = p_draft.terms ->> 'join_product' and p.kind = 'group_join'
        )
    ) then
        raise exception 'Product % names products that do not exist.', p_draft.product_id
            using errcode = 'PT422', detail = 'group_product_mismatch',
            hint = 'terms.contribution_product is of kind contribution, terms.join_product of kind group_join.';
    end if;
end;
$$;

comment on function payments.check_group_create(public.payment_checkout_sessions) is
'Refuses a group that could not be made. Raises PT422 invalid_input, group_product_mismatch.';

revoke all on function payments.check_group_create(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.check_group_join(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_draft);
begin
    perform payments.check_group_metadata(p_draft, v_group.capacity);
    perform payments.check_not_a_member(v_group, p_draft.user_id);
    perform payments.free_position(v_group, null);
end;
$$;

comment on function payments.check_group_join(public.payment_checkout_sessions) is
'Refuses to sell a place that does not exist. Raises PT404 group_unknown, PT409 group_full, already_member, PT422 '
'invalid_input, group_product_mismatch.';

revoke all on function payments.check_group_join(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

-- The buyer says in p_metadata which slot is preferred, and how a new group is called.
create function payments.check_group_metadata(p_draft public.payment_checkout_sessions, p_capacity int)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position text := p_draft.metadata ->> 'position';
begin
    if v_position !~ '^[1-9][0-9]{0,3}$' or v_position::int > p_capacity then
        raise exception 'p_metadata.position must be a slot from 1 to %.', p_capacity
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out to get the first free slot.';
    end if;
    if length(p_draft.metadata ->> 'name') not between 1 and 200 then
        raise exception 'p_metadata.name must have 1 to 200 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out to name the group like its product.';
    end if;
end;
$$;

comment on function payments.check_group_metadata(public.payment_checkout_sessions, int) is
'Checks position and name in a session''s metadata. Raises PT422 invalid_input.';

revoke all on function payments.check_group_metadata(public.payment_checkout_sessions, int)
from public, anon, authenticated, service_role;

create function payments.check_not_a_member(p_group public.payment_groups, p_user_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from public.payment_group_members as m
        where m.group_id = p_group.id and m.user_id = p_user_id and m.status = 'active'
    ) then
        raise exception 'This user is a member of group % already.', p_group.id
            using errcode = 'PT409', detail = 'already_member', hint = 'One user holds one slot of a group.';
    end if;
end;
$$;

comment on function payments.check_not_a_member(public.payment_groups, uuid) is 'Raises PT409 already_member.';

revoke all on function payments.check_not_a_member(public.payment_groups, uuid)
from public, anon, authenticated, service_role;

create function payments.check_sale(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
begin
    select h.check_function into v_function from payments.fulfilment_handlers as h where h.kind = p_draft.kind;
    if v_function is not null then
        execute format('select %s($1)', v_function) using p_draft;
    end if;
end;
$$;

comment on function payments.check_sale(public.payment_checkout_sessions) is
'Lets the kind''s handler refuse what it could not fulfil, before the buyer pays. Raises what the handler raises.';

revoke all on function payments.check_sale(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.cycle_of_session(p_session public.payment_checkout_sessions)
returns int
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cycle text := substring(p_session.subject from ':(.*)$');
begin
    if v_cycle is null or v_cycle !~ '^[1-9][0-9]{0,3}$' then
        raise exception 'p_subject must name the group and the cycle.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Pass <group id>:<cycle>, where cycles count from 1.';
    end if;
    return v_cycle::int;
end;
$$;

comment on function payments.cycle_of_session(public.payment_checkout_sessions) is
'The cycle that a contribution pays. Raises PT422 invalid_input.';

revoke all on function payments.cycle_of_session(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.free_position(p_group public.payment_groups, p_preferred int)
returns int
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position int;
begin
    select slot.position into v_position
    from generate_series(1, p_group.capacity) as slot (position)
    where p_group.status = 'open' and not exists (
        select from public.payment_group_members as m
        where m.group_id = p_group.id and m.position = slot.position and m.status = 'active'
    )
    -- the preferred one, else the next behind it, else the first
    order by slot.position < coalesce(p_preferred, 1), slot.position
    limit 1;
    if not found then
        raise exception 'Group % has no free place.', p_group.id
            using errcode = 'PT409', detail = 'group_full', hint = 'Join another group, or wait until a place is free.';
    end if;
    return v_position;
end;
$$;

comment on function payments.free_position(public.payment_groups, int) is
'The slot of a group that a new member gets: the preferred one if it is free, else the next. Raises PT409 group_full.';

revoke all on function payments.free_position(public.payment_groups, int)
from public, anon, authenticated, service_role;

create or replace function payments.fulfil(p_session public.payment_checkout_sessions)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
begin
    select h.fulfil_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    return payments.run_handler(v_function, p_session);
end;
$$;

comment on function payments.fulfil(public.payment_checkout_sessions) is
'Gives the buyer what was paid for, through the handler of the session''s kind, in the transaction that records the '
'capture.';

revoke all on function payments.fulfil(public.payment_checkout_sessions) from public, anon, authenticated, service_role;

create function payments.fulfil_contribution(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_session);
    v_cycle int := payments.cycle_of_session(p_session);
    v_position int;
begin
    insert into public.payment_contributions as c (
        group_id, user_id, cycle, status, session_id, amount, currency, paid_at, updated_at
    )
    values (
        v_group.id, p_session.user_id, v_cycle, 'paid', p_session.id, p_session.amount, p_session.currency,
        now(), now()
    )
    on conflict (group_id, user_id, cycle) do update
        set status = excluded.status,
            session_id = excluded.session_id,
            amount = excluded.amount,
            currency = excluded.currency,
            paid_at = excluded.paid_at,
            updated_at = excluded.updated_at
        where c.status = 'refunded';
    if not found then
        raise exception 'Cycle % was paid by another session.', v_cycle
            using errcode = 'PT409', detail = 'contribution_paid', hint = 'Refund one of the two payments.';
    end if;
    select m.position into v_position
    from public.payment_group_members as m
    where m.group_id = v_group.id and m.user_id = p_session.user_id;
    return jsonb_build_object(
        'kind', 'contribution', 'group_id', v_group.id, 'cycle', v_cycle, 'position', v_position
    );
end;
$$;

comment on function payments.fulfil_contribution(public.payment_checkout_sessions) is
'Marks the cycle that the session''s subject names as paid, exactly once. Answers {kind, group_id, cycle, position}. '
'Raises PT409 contribution_paid.';

revoke all on function payments.fulfil_contribution(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.fulfil_group_create(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups;
    v_position int;
begin
    insert into public.payment_groups (
        id, name, created_by, capacity, contribution_product_id, join_product_id, cycle, created_at
    )
    values (
        p_session.id,
        coalesce(
            p_session.metadata ->> 'name',
            (select p.name from public.payment_products as p where p.id = p_session.product_id)
        ),
        p_session.user_id,
        (p_session.terms ->> 'capacity')::int,
        p_session.terms ->> 'contribution_product',
        p_session.terms ->> 'join_product',
        (p_session.terms ->> 'cycle')::interval,
        now()
    )
    returning * into v_group;
    v_position := payments.seat_member(v_group, p_session, (p_session.metadata ->> 'position')::int);
    return jsonb_build_object('kind', 'group_create', 'group_id', v_group.id, 'position', v_position);
end;
$$;

comment on function payments.fulfil_group_create(public.payment_checkout_sessions) is
'Makes a group with the session''s id, and the buyer its first member in the slot metadata.position. Answers {kind, '
'group_id, position}.';

revoke all on function payments.fulfil_group_create(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.fulfil_group_join(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_session);
    v_position int;
begin
    -- read again behind the lock: the group may have been closed meanwhile
    select g.* into v_group from public.payment_groups as g where g.id = v_group.id for no key update;
    v_position := payments.seat_member(v_group, p_session, (p_session.metadata ->> 'position')::int);
    return jsonb_build_object('kind', 'group_join', 'group_id', v_group.id, 'position', v_position);
end;
$$;

comment on function payments.fulfil_group_join(public.payment_checkout_sessions) is
'Makes the buyer a member of the group that is the session''s subject: in the slot metadata.position if it is free, '
'else the next. Answers {kind, group_id, position}. Raises PT409 group_full, already_member.';

revoke all on function payments.fulfil_group_join(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

-- The subject of a session names its group: '<group id>' to join, '<group id>:<cycle>' to contribute.
create function payments.group_of_session(p_session public.payment_checkout_sessions)
returns public.payment_groups
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups;
    v_id text := case p_session.kind
        when 'contribution' then split_part(p_session.subject, ':', 1) else p_session.subject
    end;
begin
    if v_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        select g.* into v_group from public.payment_groups as g where g.id = v_id::uuid;
    end if;
    if v_group.id is null then
        raise exception 'There is no group %.', coalesce(quote_literal(v_id), 'without an id')
            using errcode = 'PT404', detail = 'group_unknown', hint = 'p_subject is the id of a payment_groups row.';
    end if;
    if p_session.product_id <> (case p_session.kind
        when 'contribution' then v_group.contribution_product_id
        else coalesce(v_group.join_product_id, p_session.product_id)
    end) then
        raise exception 'Product % is not for this group.', p_session.product_id
            using errcode = 'PT422', detail = 'group_product_mismatch',
            hint = 'Buy the contribution_product_id or join_product_id of the group.';
    end if;
    return v_group;
end;
$$;

comment on function payments.group_of_session(public.payment_checkout_sessions) is
'The group that a session''s subject names, if its product is for that group. Raises PT404 group_unknown, PT422 '
'group_product_mismatch.';

revoke all on function payments.group_of_session(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.note_fulfilment(p_session_id uuid, p_result payments.grant_result, p_now timestamptz)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_failed boolean := p_result.fulfilment_status = 'failed';
    v_failure text;
    v_session public.payment_checkout_sessions;
begin
    -- what was given once can only fail to be taken back (or given again)
    select case when s.fulfilment is null then 'fulfilment_failed' else 'reversal_failed' end into v_failure
    from public.payment_checkout_sessions as s
    where s.id = p_session_id;
    update public.payment_checkout_sessions as s
    set fulfilment_status = case
            when v_failed and v_failure = 'reversal_failed' then s.fulfilment_status else p_result.fulfilment_status
        end,
        fulfilment = p_result.fulfilment,
        error_code = case when v_failed and v_failure = 'fulfilment_failed' then coalesce(p_result.error_code, s.error_code) end,
        error_message = case
            when v_failed and v_failure = 'fulfilment_failed' then coalesce(p_result.error_message, s.error_message)
        end,
        review_reason = case
            when v_failed then payments.add_reason(s.review_reason, v_failure)
            else payments.drop_reason(payments.drop_reason(s.review_reason, 'fulfilment_failed'), 'reversal_failed')
        end,
        updated_at = p_now
    where s.id = p_session_id
    returning s.* into v_session;
    if v_failed then
        perform payments.queue_notification(v_session, 'review_alert', v_failure, '{}', p_now);
    end if;
    return v_session;
end;
$$;

comment on function payments.note_fulfilment(uuid, payments.grant_result, timestamptz) is
'Stores how giving a paid purchase, or taking it back, went; a failure is for review (fulfilment_failed, '
'reversal_failed), a success ends that review.';

revoke all on function payments.note_fulfilment(uuid, payments.grant_result, timestamptz)
from public, anon, authenticated, service_role;

create function payments.reverse_contribution(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group_id uuid := (p_session.fulfilment ->> 'group_id')::uuid;
    v_cycle int := (p_session.fulfilment ->> 'cycle')::int;
begin
    if p_share = 1 then
        update public.payment_contributions as c
        set status = 'refunded', updated_at = now()
        where c.group_id = v_group_id and c.user_id = p_session.user_id and c.cycle = v_cycle
            and c.session_id = p_session.id;
    elsif not exists (
        select from public.payment_contributions as c
        where c.group_id = v_group_id and c.user_id = p_session.user_id and c.cycle = v_cycle
            and c.session_id = p_session.id and c.status = 'paid'
    ) then
        perform payments.fulfil_contribution(p_session);
    end if;
    return jsonb_build_object('share', p_share);
end;
$$;

comment on function payments.reverse_contribution(public.payment_checkout_sessions, numeric) is
'Marks the cycle as refunded when the share is 1, and as paid again when it is less. Answers {share}. Raises PT409 '
'contribution_paid when another session has paid it meanwhile.';

revoke all on function payments.reverse_contribution(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

-- The balance never goes below zero: what the buyer has spent already is a shortfall, recorded and shown. A later
-- purchase does not pay for it; a refund that fails gives back only what was taken.
create function payments.reverse_credits(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_owed bigint := round(round((p_session.terms ->> 'credits')::bigint * p_share, 20)); -- p_share has 40 digits
    v_balance bigint;
    v_clawback payments.credit_clawbacks;
    v_take bigint;
begin
    select b.balance into v_balance
    from public.payment_credit_balances as b
    where b.user_id = p_session.user_id
    for no key update;
    insert into payments.credit_clawbacks (session_id, user_id, owed, taken, changes, updated_at)
    values (p_session.id, p_session.user_id, 0, 0, 0, now())
    on conflict (session_id) do nothing;
    select c.* into strict v_clawback from payments.credit_clawbacks as c where c.session_id = p_session.id;
    v_take := case
        when v_owed > v_clawback.owed then least(v_owed - v_clawback.owed, v_balance)
        else least(v_clawback.taken, v_owed) - v_clawback.taken
    end;
    update payments.credit_clawbacks as c
    set owed = v_owed, taken = c.taken + v_take, changes = c.changes + (v_take <> 0)::int, updated_at = now()
    where c.session_id = p_session.id
    returning c.* into v_clawback;
    if v_take <> 0 then
        insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)
        values (
            p_session.user_id, -v_take, case when v_take > 0 then 'clawback' else 'reinstatement' end,
            p_session.id || ':' || v_clawback.changes, now()
        );
        update public.payment_credit_balances as b
        set balance = b.balance - v_take, updated_at = now()
        where b.user_id = p_session.user_id;
    end if;
    return jsonb_build_object(
        'share', p_share, 'credits', v_clawback.taken, 'shortfall', v_clawback.owed - v_clawback.taken
    );
end;
$$;

comment on function payments.reverse_credits(public.payment_checkout_sessions, numeric) is
'Leaves the buyer without a share of the purchased credits, in proportion (rounded half up), never below zero. Answers '
'{share, credits, shortfall}.';

revoke all on function payments.reverse_credits(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

-- Leaves the buyer without p_share of the purchase in all: what was taken before counts, so a repeat changes nothing
-- and a smaller share gives back. What was never given is not taken; it is just no longer owed once all money is back.
create function payments.reverse_fulfilment(p_session public.payment_checkout_sessions, p_share numeric)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
    v_result payments.grant_result;
begin
    if p_session.fulfilment is null then
        v_result.fulfilment_status := case p_share when 1 then 'reversed' else 'failed' end;
        return v_result;
    end if;
    select h.reverse_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    if v_function is null then
        return (
            'failed', p_session.fulfilment, null, null, format('kind %s has no reverse_function', p_session.kind)
        )::payments.grant_result;
    end if;
    v_result := payments.run_handler(v_function, p_session, p_share);
    if v_result.fulfilment_status = 'fulfilled' then
        v_result.fulfilment_status := case p_share when 1 then 'reversed' else 'fulfilled' end;
        -- a member who is seated again may get another slot
        v_result.fulfilment := p_session.fulfilment || jsonb_build_object('reversal', v_result.fulfilment) || case
            when v_result.fulfilment ? 'position'
                then jsonb_build_object('position', v_result.fulfilment -> 'position')
            else '{}'
        end;
    else
        v_result.fulfilment := p_session.fulfilment;
        v_result.detail := coalesce(v_result.detail, v_result.error_message);
    end if;
    return v_result;
end;
$$;

comment on function payments.reverse_fulfilment(public.payment_checkout_sessions, numeric) is
'Takes a share (0 to 1) of a purchase back through the handler of its kind. Answers the fulfilment as it is then: '
'reversed, fulfilled, or failed when the handler could not.';

revoke all on function payments.reverse_fulfilment(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

create function payments.reverse_group_create(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position int;
begin
    -- first, because nobody is seated in a closed group
    update public.payment_groups as g
    set status = 'open'
    where g.id = p_session.id and g.status = 'closed' and p_share < 1 and not exists (
        select from public.payment_group_members as m where m.group_id = g.id and m.status = 'active'
    );
    v_position := payments.set_membership(p_session, p_session.id, p_share < 1);
    update public.payment_groups as g
    set status = 'closed'
    where g.id = p_session.id and not exists (
        select from public.payment_group_members as m where m.group_id = g.id and m.status = 'active'
    );
    return jsonb_build_object('share', p_share, 'position', v_position);
end;
$$;

comment on function payments.reverse_group_create(public.payment_checkout_sessions, numeric) is
'Ends the creator''s membership when the share is 1, and closes the group if it has no other member; restores both '
'when it is less again. Answers {share, position}.';

revoke all on function payments.reverse_group_create(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

create function payments.reverse_group_join(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'share', p_share,
        'position', payments.set_membership(p_session, (p_session.fulfilment ->> 'group_id')::uuid, p_share < 1)
    );
end;
$$;

comment on function payments.reverse_group_join(public.payment_checkout_sessions, numeric) is
'Ends the membership when the share is 1, and restores it when it is less again. Answers {share, position}.';

revoke all on function payments.reverse_group_join(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

create function payments.reverse_none(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object('kind', p_session.kind, 'share', p_share);
end;
$$;

comment on function payments.reverse_none(public.payment_checkout_sessions, numeric) is
'For products that the host application takes back itself. Answers {kind, share}.';

revoke all on function payments.reverse_none(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

-- A full refund takes what is left of the period that the purchase added; periods bought later move forward, so that
-- the buyer keeps all of what is still paid for. A partial refund takes nothing. Undone, the time is given back at the
-- end.
create function payments.reverse_subscription(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_subscription public.payment_subscriptions;
    v_period payments.subscription_periods;
    v_cut interval;
    v_ends_at timestamptz;
begin
    select s.* into v_subscription
    from public.payment_subscriptions as s
    where s.user_id = p_session.user_id and s.tier = p_session.terms ->> 'tier'
    for no key update;
    select p.* into strict v_period from payments.subscription_periods as p where p.session_id = p_session.id;
    v_ends_at := v_subscription.ends_at;
    if p_share = 1 and v_period.cut is null then
        -- in seconds: days have 23 or 25 hours in some time zones
        v_cut := extract(epoch from v_period.ends_at - least(greatest(v_period.starts_at, now()), v_period.ends_at))
            * interval '1 second';
        v_ends_at := v_subscription.ends_at - v_cut;
        update payments.subscription_periods as p
        set starts_at = case when p.session_id = p_session.id then p.starts_at else p.starts_at - v_cut end,
            ends_at = p.ends_at - v_cut,
            cut = case when p.session_id = p_session.id then v_cut else p.cut end
        where p.user_id = p_session.user_id
            and p.tier = v_subscription.tier
            and (p.session_id = p_session.id or p.starts_at >= v_period.ends_at);
    elsif p_share < 1 and v_period.cut = interval '0' then
        update payments.subscription_periods as p set cut = null where p.session_id = p_session.id;
    elsif p_share < 1 and v_period.cut is not null then
        v_ends_at := greatest(v_subscription.ends_at, now()) + v_period.cut;
        update payments.subscription_periods as p
        set starts_at = v_ends_at - v_period.cut, ends_at = v_ends_at, cut = null
        where p.session_id = p_session.id;
    end if;
    update public.payment_subscriptions as s
    set ends_at = v_ends_at, updated_at = now()
    where s.user_id = p_session.user_id and s.tier = v_subscription.tier and s.ends_at <> v_ends_at;
    return jsonb_build_object('share', p_share, 'ends_at', v_ends_at);
end;
$$;

comment on function payments.reverse_subscription(public.payment_checkout_sessions, numeric) is
'Ends the period that a session added when its share is 1, and restores it when it is less again. Answers {share, '
'ends_at}.';

revoke all on function payments.reverse_subscription(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

-- A handler that fails (a full group, a bug) leaves the session for review; passing trouble of the server (deadlock,
-- disk, shutdown) undoes everything, so that a retry can succeed.
create function payments.run_handler(
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
    if p_share is null then
        execute format('select %s($1)', p_function) into v_answer using p_session;
    else
        execute format('select %s($1, $2)', p_function) into v_answer using p_session, p_share;
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

revoke all on function payments.run_handler(text, public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

-- The caller holds the group's lock, so that of two buyers of the last place the second sees that it is taken.
create function payments.seat_member(
    p_group public.payment_groups,
    p_session public.payment_checkout_sessions,
    p_preferred int
)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position int;
begin
    perform payments.check_not_a_member(p_group, p_session.user_id);
    v_position := payments.free_position(p_group, p_preferred);
    insert into public.payment_group_members (
        group_id, user_id, position, status, session_id, security_deposit, currency, joined_at, updated_at
    )
    values (
        p_group.id, p_session.user_id, v_position, 'active', p_session.id, p_session.amount, p_session.currency,
        now(), now()
    )
    on conflict (group_id, user_id) do update -- somebody whose membership has ended joins again
        set position = excluded.position,
            status = excluded.status,
            session_id = excluded.session_id,
            security_deposit = excluded.security_deposit,
            currency = excluded.currency,
            joined_at = excluded.joined_at,
            updated_at = excluded.updated_at;
    return v_position;
end;
$$;

comment on function payments.seat_member(public.payment_groups, public.payment_checkout_sessions, int) is
'Makes the buyer an active member and returns the slot. Raises PT409 group_full, already_member.';

revoke all on function payments.seat_member(public.payment_groups, public.payment_checkout_sessions, int)
from public, anon, authenticated, service_role;

create function payments.set_membership(p_session public.payment_checkout_sessions, p_group_id uuid, p_active boolean)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups;
    v_position int := (p_session.fulfilment ->> 'position')::int;
begin
    select g.* into v_group from public.payment_groups as g where g.id = p_group_id for no key update;
    if not p_active then
        update public.payment_group_members as m
        set status = 'ended', updated_at = now()
        where m.group_id = p_group_id and m.session_id = p_session.id and m.status = 'active';
    elsif not exists (
        select from public.payment_group_members as m
        where m.group_id = p_group_id and m.session_id = p_session.id and m.status = 'active'
    ) then
        v_position := payments.seat_member(v_group, p_session, v_position);
    end if;
    return v_position;
end;
$$;

comment on function payments.set_membership(public.payment_checkout_sessions, uuid, boolean) is
'Ends the membership that a session paid for, or restores it: in its old slot if that is free, else the next. Returns '
'the slot. Raises PT409 group_full, already_member.';

revoke all on function payments.set_membership(public.payment_checkout_sessions, uuid, boolean)
from public, anon, authenticated, service_role;

-- Whether the coupon can be used here and now, and what it takes off. Caps are another matter: an open session of the
-- buyer may hold a place already (check_coupon_place, reserve_coupon).
create function payments.apply_coupon(
    p_coupon text,
    p_price public.payment_prices,
    p_now timestamptz,
    out coupon_id text,
    out discount_amount bigint
)
language plpgsql
stable
security definer -- quote_checkout runs as the user, who may not list coupons
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
    v_terms payments.coupon_currencies;
begin
    select c.* into v_coupon from payments.coupons as c where c.id = upper(p_coupon);
    if not found then
        raise exception 'There is no coupon %.', quote_literal(left(p_coupon, 64))
            using errcode = 'PT422', detail = 'coupon_unknown', hint = 'Check the spelling, or leave p_coupon out.';
    end if;
    if v_coupon.valid_until <= p_now then
        raise exception 'Coupon % has expired.', v_coupon.id
            using errcode = 'PT422', detail = 'coupon_expired', hint = 'Leave p_coupon out.';
    end if;
    select t.* into v_terms
    from payments.coupon_currencies as t
    where t.coupon_id = v_coupon.id and t.currency = p_price.currency;
    if v_coupon.valid_from > p_now
        or p_price.product_id <> all(v_coupon.product_ids)
        or p_price.amount < v_terms.minimum_amount
        or coalesce(v_coupon.percent_off, v_terms.amount_off) is null
    then
        raise exception 'Coupon % cannot be used: %.', v_coupon.id, case
            when v_coupon.valid_from > p_now then format('it is valid from %s', v_coupon.valid_from)
            when p_price.product_id <> all(v_coupon.product_ids) then format('it is not for %s', p_price.product_id)
            when p_price.amount < v_terms.minimum_amount
                then format('it needs a price of at least %s minor units', v_terms.minimum_amount)
            else format('it has no discount in %s', p_price.currency)
        end
            using errcode = 'PT422', detail = 'coupon_not_applicable', hint = 'Leave p_coupon out, or buy what it is for.';
    end if;
    coupon_id := v_coupon.id;
    discount_amount := case
        when v_coupon.percent_off is null then least(v_terms.amount_off, p_price.amount)
        -- rounded down to whole minor units; numeric, because large prices times 100 leave bigint
        else div(p_price.amount::numeric * v_coupon.percent_off, 100)
    end;
end;
$$;

comment on function payments.apply_coupon(text, public.payment_prices, timestamptz) is
'The coupon''s id and its discount on a price, in minor units. Raises PT422 coupon_unknown, coupon_expired, '
'coupon_not_applicable.';

revoke all on function payments.apply_coupon(text, public.payment_prices, timestamptz)
from public, anon, authenticated, service_role;
grant execute on function payments.apply_coupon(text, public.payment_prices, timestamptz)
to authenticated, service_role;

create function payments.check_coupon_place(p_coupon_id text, p_user_id uuid)
returns void
language plpgsql
stable
security definer -- quote_checkout runs as the user, who may not read redemptions
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
    v_free int;
    v_used int;
    v_holding boolean;
begin
    select c.* into v_coupon from payments.coupons as c where c.id = p_coupon_id;
    select v_coupon.max_redemptions - v_coupon.places_taken + count(*) into v_free
    from payments.coupon_redemptions as r
    where r.coupon_id = p_coupon_id
        and r.holds_place
        and (
            r.status = 'released'
            or (r.status = 'reserved' and not exists (
                select from public.payment_checkout_sessions as s where s.id = r.session_id
            ))
        );
    select count(*), coalesce(bool_or(r.status = 'reserved'), false) into v_used, v_holding
    from payments.coupon_redemptions as r
    where r.coupon_id = p_coupon_id and r.user_id = p_user_id and r.status <> 'released';
    -- a place that the user holds for an open session is the user's to use
    if not v_holding and (v_free <= 0 or v_used >= v_coupon.max_redemptions_per_user) then
        perform payments.refuse_coupon(p_coupon_id);
    end if;
end;
$$;

comment on function payments.check_coupon_place(text, uuid) is
'Looks for a place without taking it. Raises PT409 coupon_exhausted.';

revoke all on function payments.check_coupon_place(text, uuid) from public, anon, authenticated, service_role;
grant execute on function payments.check_coupon_place(text, uuid) to authenticated, service_role;

-- Late money finds its place released, perhaps taken by another buyer. The price was agreed: it is honoured, with a
-- place if there is still one, else above the cap, which payment_report shows.
create function payments.confirm_coupon(p_session public.payment_checkout_sessions, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
    v_redemption payments.coupon_redemptions;
begin
    update payments.coupon_redemptions as r
    set status = 'confirmed', updated_at = p_now
    where r.session_id = p_session.id and r.status = 'reserved';
    if found then
        return;
    end if;
    select c.* into v_coupon from payments.coupons as c where c.id = p_session.coupon_id for no key update;
    select r.* into v_redemption from payments.coupon_redemptions as r where r.session_id = p_session.id;
    if v_redemption.status = 'confirmed' then
        return;
    end if;
    if not v_redemption.holds_place then
        v_coupon := payments.give_back_coupon_places(v_coupon, p_now);
        update payments.coupons as c
        set places_taken = c.places_taken + 1
        where c.id = v_coupon.id and c.places_taken < coalesce(c.max_redemptions, c.places_taken + 1);
        v_redemption.holds_place := found;
    end if;
    update payments.coupon_redemptions as r
    set status = 'confirmed', holds_place = v_redemption.holds_place, paid_late = true, updated_at = p_now
    where r.session_id = p_session.id and r.status = 'released';
end;
$$;

comment on function payments.confirm_coupon(public.payment_checkout_sessions, timestamptz) is
'Makes the redemption of a session that is being paid final.';

revoke all on function payments.confirm_coupon(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

-- The caller holds the coupon's lock.
create function payments.give_back_coupon_places(p_coupon payments.coupons, p_now timestamptz)
returns payments.coupons
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons := p_coupon;
begin
    if v_coupon.places_taken < coalesce(v_coupon.max_redemptions, v_coupon.places_taken + 1) then
        return v_coupon;
    end if;
    with given_back as (
        update payments.coupon_redemptions as r
        set holds_place = false, status = 'released', updated_at = p_now
        where r.coupon_id = v_coupon.id
            and r.holds_place
            and (
                r.status = 'released'
                or (r.status = 'reserved' and not exists ( -- the session went with its user
                    select from public.payment_checkout_sessions as s where s.id = r.session_id
                ))
            )
        returning 1
    )

    update payments.coupons as c
    set places_taken = c.places_taken - (select count(*) from given_back)
    where c.id = v_coupon.id
    returning c.* into v_coupon;
    return v_coupon;
end;
$$;

comment on function payments.give_back_coupon_places(payments.coupons, timestamptz) is
'A locked coupon, with the places that were released counted as free when there is no other.';

revoke all on function payments.give_back_coupon_places(payments.coupons, timestamptz)
from public, anon, authenticated, service_role;

create function payments.refuse_coupon(p_coupon_id text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'Coupon % has been used up.', p_coupon_id
        using errcode = 'PT409', detail = 'coupon_exhausted', hint = 'Leave p_coupon out.';
end;
$$;

comment on function payments.refuse_coupon(text) is 'Raises PT409 coupon_exhausted.';

revoke all on function payments.refuse_coupon(text) from public, anon, authenticated, service_role;

create function payments.release_coupon(p_session_id uuid, p_from text, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update payments.coupon_redemptions as r
    set status = 'released', updated_at = p_now
    where r.session_id = p_session_id and r.status = p_from;
end;
$$;

comment on function payments.release_coupon(uuid, text, timestamptz) is
'Gives up the coupon place of a session that ended unpaid (from reserved) or was refunded (from confirmed).';

revoke all on function payments.release_coupon(uuid, text, timestamptz) from public, anon, authenticated, service_role;

-- Buyers queue at the coupon's row: the one behind sees the places that the one before took. A transaction never locks
-- two coupons, because a release only marks the redemption: its place is given back by whoever needs one.
create function payments.reserve_coupon(p_session public.payment_checkout_sessions, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
begin
    select c.* into v_coupon from payments.coupons as c where c.id = p_session.coupon_id for no key update;
    v_coupon := payments.give_back_coupon_places(v_coupon, p_now);
    if v_coupon.places_taken >= v_coupon.max_redemptions
        or v_coupon.max_redemptions_per_user <= (
            select count(*)
            from payments.coupon_redemptions as r
            where r.coupon_id = v_coupon.id and r.user_id = p_session.user_id and r.status <> 'released'
        )
    then
        perform payments.refuse_coupon(v_coupon.id);
    end if;
    update payments.coupons as c
    set places_taken = c.places_taken + 1
    where c.id = v_coupon.id;
    insert into payments.coupon_redemptions (
        session_id, coupon_id, user_id, status, holds_place, created_at, updated_at
    )
    values (p_session.id, v_coupon.id, p_session.user_id, 'reserved', true, p_now, p_now);
end;
$$;

comment on function payments.reserve_coupon(public.payment_checkout_sessions, timestamptz) is
'Takes a place of the session''s coupon for it. Raises PT409 coupon_exhausted.';

revoke all on function payments.reserve_coupon(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

-- What a provider says went back. Refunds may come before the payment's own news, twice, and in any order.
create function payments.apply_refunds(p_outcome payments.outcome, p_session_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_session_id);
    v_refund public.payment_refunds;
begin
    for v_refund in select * from payments.read_refunds(p_outcome, v_session) loop
        perform payments.record_refund(v_refund, p_outcome.source, p_now);
    end loop;
    v_session := payments.session_by_id(p_session_id);
    if p_outcome.disputed
        and payments.add_reason(v_session.review_reason, 'dispute_reported') is distinct from v_session.review_reason
    then
        v_session := payments.flag_session(v_session, 'dispute_reported', p_outcome.source, p_outcome.paid_at, p_now);
    end if;
    v_session := payments.settle_refunds(v_session, p_outcome.source, p_outcome.paid_at, p_now);
    return payments.session_answer(v_session, v_session.completed_at is not null);
end;
$$;

comment on function payments.apply_refunds(payments.outcome, uuid, timestamptz) is
'Records the refunds and disputes of an outcome and brings the session in line with them.';

revoke all on function payments.apply_refunds(payments.outcome, uuid, timestamptz)
from public, anon, authenticated, service_role;

create function payments.capture_of_refund(p_refund public.payment_refunds)
returns payments.captures
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures;
begin
    select c.* into v_capture
    from payments.captures as c
    where c.session_id = p_refund.session_id
        and c.provider = p_refund.provider
        and c.provider_payment_id = coalesce(p_refund.provider_payment_id, c.provider_payment_id)
    -- when nobody said which payment: the one that counts
    order by c.disposition = 'settled' desc, c.created_at
    limit 1;
    return v_capture;
end;
$$;

comment on function payments.capture_of_refund(public.payment_refunds) is
'The money that a refund takes back; null when it is not recorded (yet).';

revoke all on function payments.capture_of_refund(public.payment_refunds)
from public, anon, authenticated, service_role;

create function payments.exceeds_payment(p_refund public.payment_refunds)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures := payments.capture_of_refund(p_refund);
begin
    -- a refund that overtook the news of its payment is weighed by settle_refunds
    return p_refund.status <> 'failed'
        and v_capture.amount < p_refund.amount::numeric + payments.refunded_of_capture(v_capture, array['pending', 'succeeded']);
end;
$$;

comment on function payments.exceeds_payment(public.payment_refunds) is
'Whether a new refund would give back more than was paid; null when the payment is not known yet.';

revoke all on function payments.exceeds_payment(public.payment_refunds) from public, anon, authenticated, service_role;

create function payments.read_refunds(p_outcome payments.outcome, p_session public.payment_checkout_sessions)
returns setof public.payment_refunds
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
declare
    v_said jsonb;
    v_refund public.payment_refunds;
begin
    for v_said in select e from jsonb_array_elements(coalesce(p_outcome.refunds, '[]')) as e loop
        v_refund.provider := p_outcome.provider;
        v_refund.provider_refund_id := v_said ->> 'provider_refund_id';
        v_refund.session_id := p_session.id;
        v_refund.user_id := p_session.user_id;
        v_refund.provider_payment_id := p_outcome.provider_payment_id;
        v_refund.kind := coalesce(v_said ->> 'kind', 'refund');
        v_refund.amount := (v_said ->> 'amount')::bigint;
        v_refund.currency := coalesce(p_session.currency, p_outcome.currency, 'XXX'); -- ISO 4217: no currency
        v_refund.status := coalesce(v_said ->> 'status', 'succeeded');
        v_refund.reason := left(v_said ->> 'reason', 500);
        return next v_refund;
    end loop;
end;
$$;

comment on function payments.read_refunds(payments.outcome, public.payment_checkout_sessions) is
'The refunds of an outcome as rows that are not stored yet.';

revoke all on function payments.read_refunds(payments.outcome, public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

-- One row per refund of the provider; its status only advances, so that news which overtook each other end the same.
-- The caller holds the session's lock.
create function payments.record_refund(p_refund public.payment_refunds, p_source text, p_now timestamptz)
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
    elsif (v_known.session_id, v_known.amount) <> (p_refund.session_id, p_refund.amount) then
        perform payments.review_refund(v_refund, 'refund_conflict', p_source, p_now);
        return;
    elsif array_position(v_order, v_known.status) < array_position(v_order, p_refund.status)
        -- an earlier refund failed and left room for this one
        or v_known.status = 'refused' and payments.exceeds_payment(p_refund) is false
    then
        update public.payment_refunds as r
        set status = p_refund.status, reason = coalesce(p_refund.reason, r.reason), updated_at = p_now
        where r.provider = p_refund.provider and r.provider_refund_id = p_refund.provider_refund_id
        returning r.* into v_refund;
    else
        return;
    end if;
    perform payments.tell_refund(v_refund, p_source, p_now);
end;
$$;

comment on function payments.record_refund(public.payment_refunds, text, timestamptz) is
'Records what is new about a refund; a replay, or older news, changes nothing. Raises PT503 try_again.';

revoke all on function payments.record_refund(public.payment_refunds, text, timestamptz)
from public, anon, authenticated, service_role;

create function payments.refunded_of_capture(p_capture payments.captures, p_statuses text[])
returns numeric
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(sum(r.amount), 0)
        from public.payment_refunds as r
        where r.session_id = p_capture.session_id
            and r.provider = p_capture.provider
            and (payments.capture_of_refund(r)).provider_payment_id = p_capture.provider_payment_id
            and r.status = any(p_statuses)
    );
end;
$$;

comment on function payments.refunded_of_capture(payments.captures, text[]) is
'Sum of a capture''s refunds with these statuses, in minor units.';

revoke all on function payments.refunded_of_capture(payments.captures, text[])
from public, anon, authenticated, service_role;

-- What was paid beyond the price goes back first: returning an overpayment takes nothing from the buyer.
create function payments.refunded_of_session(p_session public.payment_checkout_sessions)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures;
    v_back numeric;
begin
    select c.* into v_capture
    from payments.captures as c
    where c.session_id = p_session.id and c.disposition = 'settled';
    if not found then
        return p_session.refunded_amount;
    end if;
    v_back := payments.refunded_of_capture(v_capture, array['succeeded']);
    return case
        when v_back >= v_capture.amount then p_session.amount
        else greatest(v_back - greatest(v_capture.amount - p_session.amount, 0), 0)
    end;
end;
$$;

comment on function payments.refunded_of_session(public.payment_checkout_sessions) is
'How much of the price has gone back, in minor units, never more than the price. All of it when all that was captured '
'is back.';

revoke all on function payments.refunded_of_session(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

-- A second payment, the wrong money or an overpayment needs nobody any more once it has gone back.
create function payments.resolve_returned_money(
    p_session public.payment_checkout_sessions,
    p_source text,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := p_session;
    v_returned text[] := array['duplicate_payment', 'amount_mismatch', 'currency_mismatch', 'overpaid'];
    v_capture payments.captures;
    v_back numeric;
    v_reason text;
begin
    for v_capture in select c.* from payments.captures as c where c.session_id = p_session.id loop
        v_back := payments.refunded_of_capture(v_capture, array['succeeded']);
        v_reason := payments.trouble_of_capture(v_capture, p_session);
        if v_back < v_capture.amount - (case v_reason when 'overpaid' then p_session.amount else 0 end) then
            v_returned := array_remove(v_returned, v_reason);
            -- its refund failed later
            if payments.add_reason(v_session.review_reason, v_reason) is distinct from v_session.review_reason
                and exists (
                    select from public.payment_refunds as r
                    where r.session_id = p_session.id
                        and r.provider = v_capture.provider
                        and (payments.capture_of_refund(r)).provider_payment_id = v_capture.provider_payment_id
                        and r.status = 'failed'
                        and r.updated_at = p_now
                )
            then
                v_session := payments.flag_session(v_session, v_reason, p_source, null, p_now);
            end if;
        end if;
        if v_back > v_capture.amount -- it was refunded before we knew what had been paid
            and payments.add_reason(v_session.review_reason, 'refund_exceeds_payment')
                is distinct from v_session.review_reason
        then
            v_session := payments.flag_session(v_session, 'refund_exceeds_payment', p_source, null, p_now);
        end if;
    end loop;
    if string_to_array(v_session.review_reason, ', ') && v_returned then
        foreach v_reason in array v_returned loop
            v_session.review_reason := payments.drop_reason(v_session.review_reason, v_reason);
        end loop;
        update public.payment_checkout_sessions as s
        set review_reason = v_session.review_reason, updated_at = p_now
        where s.id = p_session.id;
    end if;
    return v_session;
end;
$$;

comment on function payments.resolve_returned_money(public.payment_checkout_sessions, text, timestamptz) is
'Drops the review reasons whose money has gone back in full.';

revoke all on function payments.resolve_returned_money(public.payment_checkout_sessions, text, timestamptz)
from public, anon, authenticated, service_role;

create function payments.review_refund(
    p_refund public.payment_refunds,
    p_reason text,
    p_source text,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.flag_session(s, p_reason, p_source, null, p_now)
    from public.payment_checkout_sessions as s
    where s.id = p_refund.session_id
        and payments.add_reason(s.review_reason, p_reason) is distinct from s.review_reason;
end;
$$;

comment on function payments.review_refund(public.payment_refunds, text, text, timestamptz) is
'Flags the session of a refund, once per reason that is still open.';

revoke all on function payments.review_refund(public.payment_refunds, text, text, timestamptz)
from public, anon, authenticated, service_role;

-- Brings a locked session in line with its refunds, whatever order they came in: the sum decides, so a replay changes
-- nothing and a refund that fails later gives everything back.
create function payments.settle_refunds(
    p_session public.payment_checkout_sessions,
    p_source text,
    p_occurred_at timestamptz,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_refunded bigint;
    v_change bigint;
    v_status text;
    v_result payments.grant_result;
begin
    -- what a refund takes back never changes, whatever is paid later
    update public.payment_refunds as r
    set provider_payment_id = (payments.capture_of_refund(r)).provider_payment_id
    where r.session_id = p_session.id
        and r.provider_payment_id is null
        and (payments.capture_of_refund(r)).provider_payment_id is not null;
    v_session := payments.resolve_returned_money(p_session, p_source, p_now);
    v_refunded := payments.refunded_of_session(v_session);
    v_change := v_refunded - v_session.refunded_amount;
    v_status := case v_refunded
        when 0 then 'completed' when v_session.amount then 'refunded' else 'partially_refunded'
    end;
    if v_change = 0 then
        return v_session;
    end if;
    -- lock order: the coupon before what the reversal locks
    if v_status = 'refunded' and (select t.coupon_returns_on_refund from payments.settings as t) then
        perform payments.release_coupon(v_session.id, 'confirmed', p_now);
    elsif v_session.status = 'refunded' and v_session.coupon_id is not null then
        perform payments.confirm_coupon(v_session, p_now);
    end if;
    v_result := payments.reverse_fulfilment(v_session, v_refunded::numeric(60, 40) / v_session.amount);
    update public.payment_checkout_sessions as s
    set refunded_amount = v_refunded, status = v_status, updated_at = p_now
    where s.id = v_session.id;
    perform payments.add_session_event(
        v_session.id, v_session.status, v_status, p_source, 'refunds_changed', p_occurred_at, p_now, v_result.detail
    );
    v_session := payments.note_fulfilment(v_session.id, v_result, p_now);
    perform payments.issue_document(
        case when v_change > 0 then 'credit_note' else 'correction' end, v_session, -v_change, p_now
    );
    return v_session;
end;
$$;

comment on function payments.settle_refunds(
    public.payment_checkout_sessions, text, timestamptz, timestamptz
) is
'Sets refunded_amount and the status, takes the purchase back in proportion, and issues a credit note for the change '
'(or a correction, when a refund failed later).';

revoke all on function payments.settle_refunds(
    public.payment_checkout_sessions, text, timestamptz, timestamptz
) from public, anon, authenticated, service_role;

create function payments.tell_refund(p_refund public.payment_refunds, p_source text, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_refund.status = 'refused' then
        perform payments.review_refund(p_refund, 'refund_exceeds_payment', p_source, p_now);
    elsif p_refund.kind = 'dispute' and p_refund.status <> 'failed' then
        perform payments.review_refund(p_refund, 'dispute_reported', p_source, p_now);
    elsif p_refund.kind = 'dispute' then
        update public.payment_checkout_sessions as s
        set review_reason = payments.drop_reason(s.review_reason, 'dispute_reported'), updated_at = p_now
        where s.id = p_refund.session_id and not exists (
            select from public.payment_refunds as r
            where r.session_id = s.id and r.kind = 'dispute' and r.status in ('pending', 'succeeded')
        );
    elsif p_refund.status = 'succeeded' then
        perform payments.queue_notification(
            s, 'refund', p_refund.provider_refund_id, jsonb_build_object('refund_amount', p_refund.amount), p_now
        )
        from public.payment_checkout_sessions as s
        where s.id = p_refund.session_id;
    end if;
end;
$$;

comment on function payments.tell_refund(public.payment_refunds, text, timestamptz) is
'Tells those whom a refund''s new status concerns: the buyer of money that is back, a person of what needs one. A won '
'dispute needs nobody any more.';

revoke all on function payments.tell_refund(public.payment_refunds, text, timestamptz)
from public, anon, authenticated, service_role;

create function payments.trouble_of_capture(
    p_capture payments.captures,
    p_session public.payment_checkout_sessions
)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when p_capture.disposition = 'duplicate' then 'duplicate_payment'
        when p_capture.disposition <> 'settled' then p_capture.disposition
        when p_capture.currency <> p_session.currency then 'currency_mismatch'
        when p_capture.amount < p_session.amount then 'amount_mismatch'
        when p_capture.amount > p_session.amount then 'overpaid'
    end;
end;
$$;

comment on function payments.trouble_of_capture(payments.captures, public.payment_checkout_sessions) is
'The review reason that money of a session stands for; null when it is exactly what was due.';

revoke all on function payments.trouble_of_capture(payments.captures, public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.wrong_refund_field(p_refunds jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_said jsonb;
begin
    if jsonb_typeof(p_refunds) <> 'array' then
        return 'refunds must be an array';
    end if;
    for v_said in select e from jsonb_array_elements(coalesce(p_refunds, '[]')) as e loop
        if coalesce(length(v_said ->> 'provider_refund_id'), 0) not between 1 and 255 then
            return 'refunds[].provider_refund_id must have 1 to 255 characters';
        elsif coalesce(v_said ->> 'amount', '') !~ '^[1-9][0-9]{0,17}$' then
            return 'refunds[].amount must be a positive integer in minor units';
        elsif coalesce(v_said ->> 'status', 'succeeded') not in ('pending', 'succeeded', 'failed') then
            return 'refunds[].status must be pending, succeeded or failed';
        elsif coalesce(v_said ->> 'kind', 'refund') not in ('refund', 'dispute') then
            return 'refunds[].kind must be refund or dispute';
        end if;
    end loop;
    return null;
end;
$$;

comment on function payments.wrong_refund_field(jsonb) is
'What is wrong with an outcome''s refunds [{provider_refund_id, amount (minor units), status, kind, reason}]; null '
'when nothing is.';

revoke all on function payments.wrong_refund_field(jsonb) from public, anon, authenticated, service_role;

create function payments.issue_document(
    p_kind text,
    p_session public.payment_checkout_sessions,
    p_amount bigint,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_document public.payment_invoices;
begin
    select case p_kind when 'invoice' then s.invoice_series else s.credit_note_series end into v_document.series
    from payments.settings as s;
    v_document.kind := p_kind;
    v_document.session_id := p_session.id;
    v_document.user_id := p_session.user_id;
    v_document.email := p_session.email;
    v_document.product_id := p_session.product_id;
    v_document.product_name := (select p.name from public.payment_products as p where p.id = p_session.product_id);
    v_document.currency := p_session.currency;
    v_document.original_amount := p_session.original_amount;
    v_document.discount_amount := p_session.discount_amount;
    v_document.amount := p_amount;
    v_document.provider := p_session.provider;
    v_document.provider_payment_id := p_session.provider_payment_id;
    v_document.paid_at := p_session.completed_at;
    if not payments.number_document(v_document, p_now) then
        insert into payments.unnumbered_invoices (document, created_at) values (to_jsonb(v_document), p_now);
    end if;
end;
$$;

comment on function payments.issue_document(text, public.payment_checkout_sessions, bigint, timestamptz) is
'Issues an invoice, a credit note or a correction for a session; without a number for the moment when another '
'transaction holds the counter.';

revoke all on function payments.issue_document(text, public.payment_checkout_sessions, bigint, timestamptz)
from public, anon, authenticated, service_role;

-- The counter's row lock lasts until commit: only so does a rollback leave no gap. Purchases would queue at it, one
-- disk flush each, so nobody waits: who finds it locked goes on without a number (number_payment_invoices).
create function payments.number_document(p_document public.payment_invoices, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_document public.payment_invoices := p_document;
begin
    v_document.issued_at := p_now;
    v_document.year := extract(year from p_now at time zone 'UTC');
    select c.last_number + 1 into v_document.number
    from payments.invoice_counters as c
    where c.series = v_document.series and c.year = v_document.year
    for no key update skip locked;
    if found then
        update payments.invoice_counters as c
        set last_number = v_document.number
        where c.series = v_document.series and c.year = v_document.year;
    elsif pg_try_advisory_xact_lock(hashtextextended(v_document.series || v_document.year, 7243921)) then
        -- the first of its series and year, unless the row was only locked
        -- (INSERT would wait for whoever is changing the row, even with ON CONFLICT)
        insert into payments.invoice_counters (series, year, last_number)
        select v_document.series, v_document.year, 1
        where not exists (
            select from payments.invoice_counters as c
            where c.series = v_document.series and c.year = v_document.year
        )
        on conflict do nothing;
        v_document.number := 1;
    end if;
    if found then
        insert into public.payment_invoices select v_document.*;
        return true;
    end if;
    return false;
end;
$$;

comment on function payments.number_document(public.payment_invoices, timestamptz) is
'Gives a document the next number of its series and year and stores it; false when another transaction holds the '
'counter.';

revoke all on function payments.number_document(public.payment_invoices, timestamptz)
from public, anon, authenticated, service_role;

-- In the transaction of what it tells: either both happened or neither.
create function payments.queue_notification(
    p_session public.payment_checkout_sessions,
    p_kind text,
    p_occurrence text,
    p_details jsonb,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_kind <> 'review_alert' and p_session.email is null then
        return;
    end if;
    insert into payments.notifications (session_id, user_id, kind, occurrence, email, payload, due_at, created_at)
    values (
        p_session.id, p_session.user_id, p_kind, p_occurrence,
        case when p_kind <> 'review_alert' then p_session.email end,
        jsonb_build_object(
            'product_id', p_session.product_id, 'amount', p_session.amount, 'currency', p_session.currency
        ) || p_details,
        p_now, p_now
    )
    on conflict do nothing;
end;
$$;

comment on function payments.queue_notification(
    public.payment_checkout_sessions, text, text, jsonb, timestamptz
) is
'Queues a notification, once per session, kind and occurrence; buyers without an address get none.';

revoke all on function payments.queue_notification(
    public.payment_checkout_sessions, text, text, jsonb, timestamptz
) from public, anon, authenticated, service_role;

-- The sessions themselves are the record: a sliding window over the user's newest ids, and nothing is written.
create function payments.limit_new_sessions(p_user_id uuid, p_now timestamptz)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit int;
    v_window interval;
    v_oldest timestamptz;
begin
    select s.create_limit, s.rate_window into v_limit, v_window from payments.settings as s;
    if v_limit is null then
        return;
    end if;
    -- the session that must leave the window before the user may make this one
    select s.created_at into v_oldest
    from public.payment_checkout_sessions as s
    where s.user_id = p_user_id and s.id >= payments.first_id_at(p_now - v_window)
    order by s.id desc
    offset v_limit -- the new one is there already: who loses a race to insert makes none and is not counted
    limit 1;
    if found then
        perform payments.refuse_for_now('checkout sessions', v_oldest + v_window - p_now);
    end if;
end;
$$;

comment on function payments.limit_new_sessions(uuid, timestamptz) is
'Holds a user to settings.create_limit new sessions per window. Raises PT429 too_many_requests.';

revoke all on function payments.limit_new_sessions(uuid, timestamptz) from public, anon, authenticated, service_role;

create function payments.limit_verifications(p_user_id uuid, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit int;
    v_window interval;
    v_state payments.rate_limits;
begin
    select s.verify_limit, s.rate_window into v_limit, v_window from payments.settings as s;
    if v_limit is null then
        return;
    end if;
    insert into payments.rate_limits as r (user_id, action, window_started_at, calls)
    values (p_user_id, 'verify', p_now, 1)
    on conflict (user_id, action) do update
        set calls = case when r.window_started_at <= p_now - v_window then 1 else r.calls + 1 end,
            window_started_at = case
                when r.window_started_at <= p_now - v_window then p_now else r.window_started_at
            end
    returning r.* into v_state;
    if v_state.calls > v_limit then
        perform payments.refuse_for_now('verifications', v_state.window_started_at + v_window - p_now);
    end if;
end;
$$;

comment on function payments.limit_verifications(uuid, timestamptz) is
'Counts a verification and holds the user to settings.verify_limit per window. Raises PT429 too_many_requests.';

revoke all on function payments.limit_verifications(uuid, timestamptz) from public, anon, authenticated, service_role;

create function payments.refuse_for_now(p_what text, p_wait interval)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'Too many % in a short time.', p_what
        using errcode = 'PT429', detail = 'too_many_requests',
        hint = format('retry_after=%s (seconds).', greatest(ceil(extract(epoch from p_wait)), 1));
end;
$$;

comment on function payments.refuse_for_now(text, interval) is
'Raises PT429 too_many_requests; the hint says after how many seconds to try again.';

revoke all on function payments.refuse_for_now(text, interval) from public, anon, authenticated, service_role;

-- For schedulers, which keep an error where somebody looks and throw rows away.
create function payments.assert_invariants()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_broken text;
begin
    select string_agg(i.invariant || ' ' || i.subject, '; ') into v_broken
    from (select b.* from public.check_payment_invariants() as b limit 10) as i;
    if v_broken is not null then
        raise exception 'Broken: %.', v_broken
            using errcode = 'PT500', detail = 'invariant_broken', hint = 'select * from check_payment_invariants().';
    end if;
end;
$$;

comment on function payments.assert_invariants() is
'Raises PT500 invariant_broken when check_payment_invariants finds anything.';

revoke all on function payments.assert_invariants() from public, anon, authenticated, service_role;

create function payments.broken_coupon_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'coupon_counts_its_places', c.id, format('%s counted, %s held', c.places_taken, count(r.session_id))
    from payments.coupons as c
    left join payments.coupon_redemptions as r on c.id = r.coupon_id and r.holds_place
    group by c.id
    having c.places_taken <> count(r.session_id) or c.places_taken > c.max_redemptions
    union all
    select 'coupon_is_within_its_cap_per_user', r.coupon_id, r.user_id::text
    from payments.coupon_redemptions as r
    inner join payments.coupons as c on r.coupon_id = c.id
    -- who paid late for a place that was released may have used the coupon again meanwhile: the price was agreed
    where r.status <> 'released' and not r.paid_late
    group by r.coupon_id, r.user_id, c.max_redemptions_per_user
    having count(*) > c.max_redemptions_per_user
    union all
    select 'open_session_holds_its_coupon_place', s.id::text, s.coupon_id
    from public.payment_checkout_sessions as s
    where s.status = 'pending' and s.coupon_id is not null
        and not exists (
            select from payments.coupon_redemptions as r
            where r.session_id = s.id and r.coupon_id = s.coupon_id and r.status = 'reserved' and r.holds_place
        )
    union all
    select 'paid_session_has_redeemed_its_coupon', s.id::text, s.coupon_id
    from public.payment_checkout_sessions as s
    where s.status in ('completed', 'partially_refunded') and s.coupon_id is not null
        and not exists (
            select from payments.coupon_redemptions as r
            where r.session_id = s.id and r.coupon_id = s.coupon_id and r.status = 'confirmed'
        )
    union all
    select 'closed_session_reserves_no_coupon', s.id::text, s.coupon_id
    from public.payment_checkout_sessions as s
    inner join payments.coupon_redemptions as r on s.id = r.session_id
    where s.status in ('failed', 'expired', 'cancelled') and r.status <> 'released';
end;
$$;

comment on function payments.broken_coupon_rules() is
'Rules about coupons that do not hold.';

revoke all on function payments.broken_coupon_rules() from public, anon, authenticated, service_role;

create function payments.broken_credit_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'credits_are_granted_once_per_paid_session', s.id::text, format('%s entries', count(e.source))
    from public.payment_checkout_sessions as s
    left join public.payment_credit_entries as e
        on e.reason = 'purchase' and e.source = s.id::text
        and e.user_id = s.user_id and e.amount = (s.terms ->> 'credits')::bigint
    where s.kind = 'credits' and s.fulfilment is not null
    group by s.id
    having count(e.source) <> 1
    union all
    select 'credits_are_granted_for_fulfilled_sessions_only', s.id::text, s.fulfilment_status
    from public.payment_credit_entries as e
    inner join public.payment_checkout_sessions as s on e.source = s.id::text
    where e.reason = 'purchase' and s.fulfilment is null
    union all
    select 'balance_is_the_sum_of_entries', b.user_id::text, format('balance %s, entries %s', b.balance, coalesce(e.total, 0))
    from public.payment_credit_balances as b
    left join (
        select pe.user_id, sum(pe.amount) as total from public.payment_credit_entries as pe group by pe.user_id
    ) as e on b.user_id = e.user_id
    where b.balance <> coalesce(e.total, 0) or b.balance < 0
    union all
    select 'entries_have_a_balance', e.user_id::text, format('entries %s', sum(e.amount))
    from public.payment_credit_entries as e
    inner join auth.users as u on e.user_id = u.id
    where not exists (select from public.payment_credit_balances as b where b.user_id = e.user_id)
    group by e.user_id
    union all
    select 'clawbacks_match_their_entries', c.session_id::text, format('taken %s, entries %s', c.taken, coalesce(-sum(e.amount), 0))
    from payments.credit_clawbacks as c
    left join public.payment_credit_entries as e
        on e.user_id = c.user_id
        and e.reason in ('clawback', 'reinstatement')
        and split_part(e.source, ':', 1) = c.session_id::text
    group by c.session_id
    having c.taken <> coalesce(-sum(e.amount), 0);
end;
$$;

comment on function payments.broken_credit_rules() is
'Rules about credits that do not hold.';

revoke all on function payments.broken_credit_rules() from public, anon, authenticated, service_role;

create function payments.broken_grant_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'subscription_covers_its_periods', p.user_id::text, p.tier
    from payments.subscription_periods as p
    inner join auth.users as u on p.user_id = u.id
    left join public.payment_subscriptions as s on p.user_id = s.user_id and p.tier = s.tier
    group by p.user_id, p.tier, s.ends_at
    having s.ends_at is null
        or max(p.ends_at) <> s.ends_at
    union all
    select 'fulfilled_subscription_has_a_period', s.id::text, s.terms ->> 'tier'
    from public.payment_checkout_sessions as s
    where s.kind = 'subscription' and s.fulfilment is not null
        and not exists (
            select from payments.subscription_periods as p where p.session_id = s.id and p.user_id = s.user_id
        )
    union all
    select 'group_is_within_its_capacity', g.id::text, format('%s of %s', count(*), g.capacity)
    from public.payment_groups as g
    inner join public.payment_group_members as m on g.id = m.group_id and m.status = 'active'
    group by g.id
    having count(*) > g.capacity or max(m.position) > g.capacity
    union all
    select 'fulfilled_member_holds_a_slot', s.id::text, s.kind
    from public.payment_checkout_sessions as s
    where s.kind in ('group_create', 'group_join') and s.fulfilment_status = 'fulfilled'
        and coalesce(s.review_reason, '') = ''
        and not exists (
            select from public.payment_group_members as m
            where m.session_id = s.id and m.user_id = s.user_id and m.status = 'active'
        )
    union all
    select 'fulfilled_contribution_is_paid', s.id::text, s.subject
    from public.payment_checkout_sessions as s
    where s.kind = 'contribution' and s.fulfilment_status = 'fulfilled'
        and coalesce(s.review_reason, '') = ''
        and not exists (
            select from public.payment_contributions as c
            where c.session_id = s.id and c.user_id = s.user_id and c.status = 'paid'
        );
end;
$$;

comment on function payments.broken_grant_rules() is
'Rules about subscriptions and groups that do not hold.';

revoke all on function payments.broken_grant_rules() from public, anon, authenticated, service_role;

create function payments.broken_refund_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'refunded_amount_is_what_refunds_add_up_to', s.id::text,
        format('%s stated, %s refunded', s.refunded_amount, payments.refunded_of_session(s))
    from public.payment_checkout_sessions as s
    where (s.refunded_amount > 0 or exists (select from public.payment_refunds as r where r.session_id = s.id))
        and s.completed_at is not null
        and s.refunded_amount <> payments.refunded_of_session(s)
    union all
    select 'status_follows_the_refunded_amount', s.id::text, format('%s, %s of %s', s.status, s.refunded_amount, s.amount)
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.status <> case
        when s.refunded_amount = 0 then 'completed'
        when s.refunded_amount = s.amount then 'refunded'
        else 'partially_refunded'
    end
    union all
    select 'refunded_purchase_is_taken_back', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.review_reason is null
        and (s.status = 'refunded' and s.fulfilment_status <> 'reversed'
            or s.status in ('completed', 'partially_refunded') and s.fulfilment_status = 'reversed')
    union all
    select 'documents_add_up_to_what_was_kept', s.id::text, format('%s kept', s.amount - s.refunded_amount)
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.amount - s.refunded_amount <> (
        select coalesce(sum(i.amount), 0)
        from public.payment_invoices as i
        where i.session_id = s.id
    ) + (
        select coalesce(sum((u.document ->> 'amount')::bigint), 0)
        from payments.unnumbered_invoices as u
        where u.document ->> 'session_id' = s.id::text
    )
    union all
    select 'document_numbers_have_no_gaps', i.series || '-' || i.year, format('%s documents, last %s', count(*), max(i.number))
    from public.payment_invoices as i
    group by i.series, i.year
    having count(*) <> max(i.number) or min(i.number) <> 1;
end;
$$;

comment on function payments.broken_refund_rules() is
'Rules about refunds and documents that do not hold.';

revoke all on function payments.broken_refund_rules() from public, anon, authenticated, service_role;

create function payments.broken_session_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
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
        and s.status <> 'refunded'
    union all
    select 'money_without_goods_is_in_review', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.fulfilment_status in ('none', 'failed') and s.review_reason is null
    union all
    select 'unsettled_money_was_flagged', c.session_id::text, c.disposition
    from payments.captures as c
    where c.disposition in ('duplicate', 'amount_mismatch', 'currency_mismatch')
        and not exists (
            select from payments.session_events as e
            where e.session_id = c.session_id
                and e.reason = case c.disposition when 'duplicate' then 'duplicate_payment' else c.disposition end
        )
    union all
    select 'completion_is_in_the_audit_trail', s.id::text, s.status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null
        and not exists (
            select from payments.session_events as e where e.session_id = s.id and e.to_status = 'completed'
        );
end;
$$;

comment on function payments.broken_session_rules() is
'Rules about sessions, captures and the audit trail that do not hold.';

revoke all on function payments.broken_session_rules() from public, anon, authenticated, service_role;
