-- Purpose: the engine's functions, and the rows they need.
-- Locks:   none on what exists: all its objects are new.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create function payments.add_session_event(
    p_session_id uuid,
    p_from_status text,
    p_to_status text,
    p_source text,
    p_reason text,
    p_occurred_at timestamptz,
    p_now timestamptz,
    p_detail text default null
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into payments.session_events (
        session_id, from_status, to_status, source, reason, detail, occurred_at, created_at
    )
    values (p_session_id, p_from_status, p_to_status, p_source, p_reason, p_detail, p_occurred_at, p_now);
end;
$$;

comment on function payments.add_session_event(uuid, text, text, text, text, timestamptz, timestamptz, text) is
'Writes one row of the audit trail.';

revoke all on function payments.add_session_event(uuid, text, text, text, text, timestamptz, timestamptz, text)
from public, anon, authenticated, service_role;

create function payments.cancel_checkout_session(p_session_id uuid)
returns public.payment_checkout_sessions
language plpgsql
volatile
security definer -- users hold no write rights on any table; the owner is checked below
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.session_by_id(p_session_id);
begin
    if not payments.is_service() then
        perform payments.require_user(v_session.user_id);
    end if;
    if not payments.move_session(
        p_session_id,
        array['pending'],
        ('cancelled', case when payments.is_service() then 'admin' else 'client' end, 'cancelled', null, null),
        null,
        now()
    ) then
        raise exception 'Only a pending session can be cancelled; this one is %.',
            (payments.session_by_id(p_session_id)).status
            using errcode = 'PT409', detail = 'session_not_pending', hint = 'Read the session again.';
    end if;
    return payments.session_by_id(p_session_id);
end;
$$;

comment on function payments.cancel_checkout_session(uuid) is 'Body of public.cancel_checkout_session.';

revoke all on function payments.cancel_checkout_session(uuid) from public, anon, authenticated, service_role;
grant execute on function payments.cancel_checkout_session(uuid) to authenticated, service_role;

create function payments.check_buyer_input(p_email text, p_subject text, p_idempotency_key text, p_metadata jsonb)
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
        when length(p_subject) not between 1 and 200
            then 'p_subject must have 1 to 200 characters'
        when length(p_idempotency_key) not between 1 and 255
            then 'p_idempotency_key must have 1 to 255 characters'
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
create function payments.check_expected_price(p_price numeric, p_offer payments.offer)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_price * (10::numeric ^ payments.currency_exponent(p_offer.currency)) <> p_offer.amount then
        raise exception 'The price is not % %.', p_price, p_offer.currency
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

create function payments.check_provider(p_provider text)
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
        raise exception 'There is no payment provider %.', coalesce(quote_literal(p_provider), 'without a name')
            using errcode = 'PT422', detail = 'provider_unknown',
            hint = format('p_provider can be one of: %s.', array_to_string(v_providers, ', '));
    end if;
end;
$$;

comment on function payments.check_provider(text) is
'Accepts the providers of payments.settings. Raises PT422 provider_unknown.';

revoke all on function payments.check_provider(text) from public, anon, authenticated, service_role;

-- What the user wants, checked and priced, as a session row that does not exist yet.
create function payments.draft_session(
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
    v_draft.email := coalesce(p_email, nullif(auth.jwt() ->> 'email', ''));
    v_draft.product_id := v_offer.product_id;
    v_draft.kind := v_offer.kind;
    v_draft.terms := v_offer.terms;
    v_draft.subject := p_subject;
    v_draft.provider := p_provider;
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
create function payments.flag_session(
    p_session public.payment_checkout_sessions,
    p_reason text,
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
begin
    update public.payment_checkout_sessions as s
    set review_reason = payments.add_reason(s.review_reason, p_reason), updated_at = p_now
    where s.id = p_session.id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session.id, p_session.status, p_session.status, p_source, p_reason, p_occurred_at, p_now
    );
    return v_session;
end;
$$;

comment on function payments.flag_session(public.payment_checkout_sessions, text, text, timestamptz, timestamptz) is
'Marks a session for review, whatever its status, and says so in the audit trail.';

revoke all on function payments.flag_session(public.payment_checkout_sessions, text, text, timestamptz, timestamptz)
from public, anon, authenticated, service_role;

-- Read first (cheap, writes nothing), insert with ON CONFLICT DO NOTHING, read again: the unique index decides races.
create function payments.get_or_create_checkout_session(
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
            else payments.insert_session(v_draft, now())
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

create function payments.insert_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
begin
    insert into public.payment_checkout_sessions (
        id, user_id, email, product_id, kind, terms, subject, provider, currency,
        original_amount, discount_amount, amount, coupon_id,
        idempotency_key, idempotency_fingerprint, metadata, created_at, updated_at, expires_at
    )
    values (
        payments.new_time_ordered_id(p_draft.user_id),
        p_draft.user_id, p_draft.email, p_draft.product_id, p_draft.kind, p_draft.terms, p_draft.subject,
        p_draft.provider, p_draft.currency,
        p_draft.original_amount, p_draft.discount_amount, p_draft.amount, p_draft.coupon_id,
        p_draft.idempotency_key,
        case when p_draft.idempotency_key is not null then p_draft.idempotency_fingerprint end,
        p_draft.metadata, p_now, p_now, p_draft.expires_at
    )
    on conflict do nothing
    returning id into v_id;
    return v_id;
exception
    when foreign_key_violation then
        raise exception 'There is no user %.', p_draft.user_id
            using errcode = 'PT422', detail = 'user_unknown', hint = 'p_user_id is the id of a row of auth.users.';
end;
$$;

comment on function payments.insert_session(public.payment_checkout_sessions, timestamptz) is
'Stores a draft as a pending session; null when another open session or key stands in its way.';

revoke all on function payments.insert_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

-- Lock order of the engine, everywhere: webhook event, session, attempt, coupon, group, balance or subscription.
-- FOR NO KEY UPDATE, so that foreign-key checks of other rows never wait for a payment.
create function payments.lock_session(p_session_id uuid)
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

create function payments.make_offer(p_plan text, p_currency text, p_coupon text)
returns payments.offer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_product public.payment_products;
    v_price public.payment_prices;
begin
    select p.* into v_product from public.payment_products as p where p.id = p_plan and p.active;
    if not found then
        raise exception 'There is no product %.', coalesce(quote_literal(p_plan), 'without a name')
            using errcode = 'PT404', detail = 'product_unknown', hint = 'p_plan is the id of an active payment_products row.';
    end if;
    select pr.* into v_price
    from public.payment_prices as pr
    where pr.product_id = p_plan and case when p_currency is null then pr.is_default else pr.currency = upper(p_currency) end;
    if not found then
        raise exception 'Product % has no price in %.', p_plan, coalesce(p_currency, 'a default currency')
            using errcode = 'PT422', detail = 'currency_unavailable', hint = format(
                'p_currency can be one of: %s.',
                (select string_agg(pr.currency, ', ' order by pr.currency)
                 from public.payment_prices as pr where pr.product_id = p_plan));
    end if;
    if p_coupon is not null then
        raise exception 'There is no coupon %.', quote_literal(p_coupon)
            using errcode = 'PT422', detail = 'coupon_unknown', hint = 'Leave p_coupon out.';
    end if;
    return (
        v_product.id, v_product.kind, v_product.name, v_product.terms,
        v_price.currency, v_price.amount, 0, v_price.amount, null
    )::payments.offer;
end;
$$;

comment on function payments.make_offer(text, text, text) is
'The current offer for a product. Raises PT404 product_unknown, PT422 currency_unavailable, PT422 coupon_unknown.';

revoke all on function payments.make_offer(text, text, text) from public, anon, authenticated, service_role;
grant execute on function payments.make_offer(text, text, text) to authenticated, service_role;

-- Every change of status but completion goes through here: one conditional statement that also writes the audit row.
create function payments.move_session(
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
            error_code = p_move.error_code,
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
    return found;
end;
$$;

comment on function payments.move_session(uuid, text[], payments.move, timestamptz, timestamptz) is
'Moves a session out of one of the given states; false when it was in none of them, and then nothing changed.';

revoke all on function payments.move_session(uuid, text[], payments.move, timestamptz, timestamptz)
from public, anon, authenticated, service_role;

-- What becomes of the open session that stands where the draft wants to be: its id when the draft can have it, null
-- when it was moved out of the way. Reuse writes nothing but its first idempotency key, and an e-mail address that has
-- changed.
create function payments.reuse_session(
    p_open public.payment_checkout_sessions,
    p_draft public.payment_checkout_sessions,
    p_now timestamptz
)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_open.expires_at <= p_now then
        perform payments.move_session(
            p_open.id, array['pending', 'processing'], ('expired', 'client', 'lapsed', null, null), null, p_now
        );
        return null;
    end if;
    if p_open.status = 'pending' and (
        p_open.provider, p_open.currency, p_open.amount, p_open.coupon_id, p_open.terms
    ) is distinct from (
        p_draft.provider, p_draft.currency, p_draft.amount, p_draft.coupon_id, p_draft.terms
    ) then
        perform payments.move_session(
            p_open.id, array['pending'], ('cancelled', 'client', 'superseded', null, null), null, p_now
        );
        return null;
    end if;
    if (p_draft.idempotency_key is not null and p_open.idempotency_key is null) or p_draft.email <> coalesce(p_open.email, '') then
        update public.payment_checkout_sessions as s
        set email = coalesce(p_draft.email, s.email),
            idempotency_key = coalesce(s.idempotency_key, p_draft.idempotency_key),
            idempotency_fingerprint = case
                when s.idempotency_key is not null then s.idempotency_fingerprint
                when p_draft.idempotency_key is not null then p_draft.idempotency_fingerprint
            end,
            updated_at = p_now
        where s.id = p_open.id;
    end if;
    return p_open.id;
exception
    when unique_violation then -- the key was taken by another session meanwhile: the caller looks again
        return null;
end;
$$;

comment on function payments.reuse_session(
    public.payment_checkout_sessions, public.payment_checkout_sessions, timestamptz
) is
'Reuses the open session, or expires it (lapsed) or cancels it (superseded: provider, currency, coupon, price or terms '
'changed) and returns null.';

revoke all on function payments.reuse_session(
    public.payment_checkout_sessions, public.payment_checkout_sessions, timestamptz
) from public, anon, authenticated, service_role;

create function payments.session_answer(p_session public.payment_checkout_sessions, p_already_completed boolean)
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
    );
end;
$$;

comment on function payments.session_answer(public.payment_checkout_sessions, boolean) is
'What every function that settles money answers.';

revoke all on function payments.session_answer(public.payment_checkout_sessions, boolean)
from public, anon, authenticated, service_role;

create function payments.session_by_id(p_session_id uuid)
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
        raise exception 'There is no checkout session %.', coalesce(p_session_id::text, 'without an id')
            using errcode = 'PT404', detail = 'session_not_found', hint = 'Check the session id or the reference.';
    end if;
    return v_session;
end;
$$;

comment on function payments.session_by_id(uuid) is 'Reads a session. Raises PT404 session_not_found.';

revoke all on function payments.session_by_id(uuid) from public, anon, authenticated, service_role;

-- Before anything is priced: a replay answers what the first call answered, whatever the catalogue says now.
create function payments.session_of_idempotency_key(
    p_user_id uuid,
    p_idempotency_key text,
    p_fingerprint text,
    p_now timestamptz
)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    if p_idempotency_key is null then
        return null;
    end if;
    select s.* into v_session
    from public.payment_checkout_sessions as s
    where s.user_id = p_user_id and s.idempotency_key = p_idempotency_key;
    if v_session.idempotency_fingerprint <> p_fingerprint then
        raise exception 'This idempotency key was used with other arguments.'
            using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for a new purchase.';
    end if;
    if v_session.expires_at <= p_now and v_session.status in ('pending', 'processing') then
        perform payments.move_session(
            v_session.id, array['pending', 'processing'], ('expired', 'client', 'lapsed', null, null), null, p_now
        );
    end if;
    return v_session.id;
end;
$$;

comment on function payments.session_of_idempotency_key(uuid, text, text, timestamptz) is
'The session that the same user made with the same key, in whatever state. Raises PT409 idempotency_conflict.';

revoke all on function payments.session_of_idempotency_key(uuid, text, text, timestamptz)
from public, anon, authenticated, service_role;

create function payments.sessions_of_purchase(p_session public.payment_checkout_sessions)
returns setof public.payment_checkout_sessions
language plpgsql
stable
rows 5
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.*
    from public.payment_checkout_sessions as s
    where s.user_id = p_session.user_id
        and s.product_id = p_session.product_id
        and (s.subject = p_session.subject or (s.subject is null and p_session.subject is null));
end;
$$;

comment on function payments.sessions_of_purchase(public.payment_checkout_sessions) is
'All sessions of the same user, product and subject, this one included.';

revoke all on function payments.sessions_of_purchase(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

-- Providers repeat themselves and their notifications overtake each other: the word of an attempt only advances, so a
-- "processing" that arrives after "failed" changes nothing.
create function payments.advance_attempt(p_number bigint, p_outcome payments.outcome)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update payments.attempts as a
    set status = p_outcome.status,
        error_code = p_outcome.error_code,
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

create function payments.attempt_answer(
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

comment on function payments.attempt_answer(public.payment_checkout_sessions, payments.attempts) is
'A session and one attempt of it, as the bridge needs them. Amounts in minor units.';

revoke all on function payments.attempt_answer(public.payment_checkout_sessions, payments.attempts)
from public, anon, authenticated, service_role;

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
    select a.number, a.session_id into v_number, v_session_id
    from payments.attempts as a
    where a.reference = p_reference and a.provider = coalesce(p_provider, a.provider);
    if v_session_id is null and p_provider_session_id is not null then
        select a.number, a.session_id into v_number, v_session_id
        from payments.attempts as a
        where a.provider = p_provider and a.provider_session_id = p_provider_session_id;
    end if;
    if v_session_id is null and p_session_id is not null then
        select s.current_attempt, s.id into v_number, v_session_id
        from public.payment_checkout_sessions as s
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

comment on function payments.find_attempt(text, text, uuid, text, text) is
'The attempt that is meant; its number is null when only the session is known. Raises PT404 session_not_found.';

revoke all on function payments.find_attempt(text, text, uuid, text, text)
from public, anon, authenticated, service_role;

-- The current page has ended. Money may still be on its way from another page of the session: then that one speaks now.
create function payments.hand_over(p_session public.payment_checkout_sessions, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.payment_checkout_sessions as s
    set current_attempt = a.number, updated_at = p_now
    from payments.attempts as a
    where s.id = p_session.id
        and s.status = 'processing'
        and a.session_id = p_session.id
        and a.number <> p_session.current_attempt
        and a.status = 'processing';
    return found;
end;
$$;

comment on function payments.hand_over(public.payment_checkout_sessions, timestamptz) is
'Makes another attempt whose payment is under way the session''s current one; false when there is none.';

revoke all on function payments.hand_over(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

create function payments.new_attempt(
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
    insert into payments.attempts (session_id, provider, reference, created_at, expires_at)
    values (
        p_session.id,
        p_provider,
        replace(payments.new_time_ordered_id(p_session.user_id)::text, '-', ''),
        p_now,
        v_expires_at
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

-- Pages on which this purchase can still be paid, or has been without our knowing: earlier ones of the session, and
-- those of its closed sessions. Before a new page opens they are closed; when a buyer asks, they are asked about too.
create function payments.other_pages(
    p_session public.payment_checkout_sessions,
    p_attempt_number bigint,
    p_now timestamptz
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'provider', page.provider, 'provider_session_id', page.provider_session_id
        )), '[]')
        from (
            select a.provider, a.provider_session_id
            from payments.sessions_of_purchase(p_session) as s
            inner join payments.attempts as a on s.id = a.session_id
            where (s.id = p_session.id or s.status in ('failed', 'expired', 'cancelled'))
                and a.number is distinct from p_attempt_number
                and a.provider_session_id is not null
                and a.status in ('open', 'processing')
                and a.created_at > p_now - interval '3 days'
            order by a.number desc
            limit 5
        ) as page
    );
end;
$$;

comment on function payments.other_pages(public.payment_checkout_sessions, bigint, timestamptz) is
'Up to five other pages of the same purchase whose provider has not said a last word: '
'[{provider, provider_session_id}].';

revoke all on function payments.other_pages(public.payment_checkout_sessions, bigint, timestamptz)
from public, anon, authenticated, service_role;

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

create function payments.apply_outcome(p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz)
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
        v_answer := payments.flag_money_taken_back(p_outcome, p_attempt.session_id, p_now);
    end if;
    return v_answer;
end;
$$;

comment on function payments.apply_outcome(payments.outcome, payments.attempts, timestamptz) is
'Does what an outcome calls for and answers the session as it is then.';

revoke all on function payments.apply_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;

-- What happened to a page without bringing money: processing, failed, expired, cancelled. Only the current attempt
-- speaks for its session: the end of an older page says nothing about the page that the buyer has open now.
create function payments.apply_page_outcome(p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_attempt.session_id);
begin
    if p_attempt.number is not null and not payments.advance_attempt(p_attempt.number, p_outcome) then
        return payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    if p_outcome.status = 'processing' then
        perform payments.begin_processing(v_session, p_attempt.number, p_outcome, p_now);
    elsif p_attempt.number is not distinct from v_session.current_attempt
        and not payments.hand_over(v_session, p_now)
    then
        perform payments.move_session(
            v_session.id,
            array['pending', 'processing'],
            (p_outcome.status, p_outcome.source, null, p_outcome.error_code, p_outcome.error_message),
            p_outcome.paid_at,
            p_now
        );
    end if;
    return payments.session_answer(payments.session_by_id(v_session.id), v_session.completed_at is not null);
end;
$$;

comment on function payments.apply_page_outcome(payments.outcome, payments.attempts, timestamptz) is
'Applies an outcome that brings no money. Stale ones change nothing.';

revoke all on function payments.apply_page_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;

-- The buyer paid with a method that takes days. That can also happen on the page of a session that has since expired,
-- failed or been cancelled; a newer session that then holds the purchase's only open place gives way if it is unpaid.
create function payments.begin_processing(
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

create function payments.check_event(p_event jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(length(p_event ->> 'id'), 0) not between 1 and 255
        or coalesce(length(p_event ->> 'type'), 0) not between 1 and 255
        or p_event -> 'payload' is null
    then
        raise exception 'The event is not valid: id and type (1 to 255 characters) and payload are needed.'
            using errcode = 'PT422', detail = 'event_invalid', hint = 'Pass p_event as {"id": …, "type": …, "payload": …}.';
    end if;
end;
$$;

comment on function payments.check_event(jsonb) is 'Checks the shape of p_event. Raises PT422 event_invalid.';

revoke all on function payments.check_event(jsonb) from public, anon, authenticated, service_role;

create function payments.claim_of_outcome(p_outcome payments.outcome, p_attempt payments.attempts, p_now timestamptz)
returns payments.captures
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claim payments.captures;
begin
    v_claim.provider := p_outcome.provider;
    v_claim.provider_payment_id := p_outcome.provider_payment_id;
    v_claim.session_id := p_attempt.session_id;
    v_claim.attempt_number := p_attempt.number;
    v_claim.provider_session_id := coalesce(p_outcome.provider_session_id, p_attempt.provider_session_id);
    v_claim.amount := p_outcome.amount;
    v_claim.currency := p_outcome.currency;
    v_claim.paid_at := coalesce(p_outcome.paid_at, p_now);
    return v_claim;
end;
$$;

comment on function payments.claim_of_outcome(payments.outcome, payments.attempts, timestamptz) is
'The capture that an outcome claims, before it is judged.';

revoke all on function payments.claim_of_outcome(payments.outcome, payments.attempts, timestamptz)
from public, anon, authenticated, service_role;

-- Refunds and disputes that a provider reports are put before a person; nothing is clawed back yet.
create function payments.flag_money_taken_back(p_outcome payments.outcome, p_session_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := payments.lock_session(p_session_id);
    v_reasons text[] := array[
        case when p_outcome.disputed then 'dispute_reported' end,
        case
            when exists (
                select from jsonb_array_elements(coalesce(p_outcome.refunds, '[]')) as r
                where coalesce(r ->> 'status', 'succeeded') in ('pending', 'succeeded')
            ) then 'refund_reported'
        end
    ];
    v_reason text;
begin
    foreach v_reason in array v_reasons loop
        if payments.add_reason(v_session.review_reason, v_reason) is distinct from v_session.review_reason then
            v_session := payments.flag_session(v_session, v_reason, p_outcome.source, p_outcome.paid_at, p_now);
        end if;
    end loop;
    return payments.session_answer(v_session, v_session.completed_at is not null);
end;
$$;

comment on function payments.flag_money_taken_back(payments.outcome, uuid, timestamptz) is
'Flags the session for review: refund_reported, dispute_reported, or both.';

revoke all on function payments.flag_money_taken_back(payments.outcome, uuid, timestamptz)
from public, anon, authenticated, service_role;

-- First statement of a webhook's transaction that writes: of two deliveries at once, the second waits here and then
-- finds the event handled. A delivery that failed before may be handled now.
create function payments.mark_event_handled(p_provider text, p_event jsonb, p_session_id uuid, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into payments.webhook_events as e (
        provider, event_id, type, payload, status, session_id, received_at, handled_at
    )
    values (
        p_provider, p_event ->> 'id', p_event ->> 'type', p_event -> 'payload', 'handled', p_session_id, p_now, p_now
    )
    on conflict (provider, event_id) do update
        set status = 'handled',
            session_id = excluded.session_id,
            error = null,
            deliveries = e.deliveries + 1,
            handled_at = excluded.handled_at
        where e.status <> 'handled';
    return found;
end;
$$;

comment on function payments.mark_event_handled(text, jsonb, uuid, timestamptz) is
'Stores the event as handled; false when it was handled before.';

revoke all on function payments.mark_event_handled(text, jsonb, uuid, timestamptz)
from public, anon, authenticated, service_role;

create function payments.read_outcome(p_outcome jsonb)
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
        when v_outcome.provider is null then 'provider is missing'
        when v_outcome.status not in ('pending', 'processing', 'completed', 'failed', 'expired', 'cancelled')
            then 'status must be pending, processing, completed, failed, expired or cancelled'
        when v_outcome.source not in ('client', 'webhook', 'verify', 'return', 'reconcile', 'cron', 'admin')
            then 'source must be client, webhook, verify, return, reconcile, cron or admin'
        when jsonb_typeof(v_outcome.refunds) <> 'array' then 'refunds must be an array'
        when v_outcome.status is null and not coalesce(v_outcome.disputed, false)
            and coalesce(jsonb_array_length(v_outcome.refunds), 0) = 0
            then 'status is missing'
        when v_outcome.status = 'completed' and coalesce(length(v_outcome.provider_payment_id), 0) not between 1 and 255
            then 'provider_payment_id must have 1 to 255 characters'
        when v_outcome.status = 'completed' and (v_outcome.amount is null or v_outcome.amount < 0)
            then 'amount must be an integer in minor units, not negative'
        when v_outcome.status = 'completed' and coalesce(v_outcome.currency, '') !~ '^[A-Z]{3}$'
            then 'currency must be an ISO 4217 code'
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

create function payments.wrong_outcome_field(p_outcome jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_field text;
    v_outcome payments.outcome;
begin
    for v_field in select jsonb_object_keys(p_outcome) loop
        v_outcome := jsonb_populate_record(v_outcome, jsonb_build_object(v_field, p_outcome -> v_field));
    end loop;
    return null;
exception
    when data_exception then
        return v_field;
end;
$$;

comment on function payments.wrong_outcome_field(jsonb) is
'Name of the first field of an outcome whose value has not its type; null when there is none, or no object at all.';

revoke all on function payments.wrong_outcome_field(jsonb) from public, anon, authenticated, service_role;

-- The one place where a session becomes completed: handler, then one update of the locked row, then the audit row.
create function payments.complete_session(
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
    return v_session;
end;
$$;

comment on function payments.complete_session(
    public.payment_checkout_sessions, payments.captures, text, text, timestamptz
) is
'Fulfils and completes a locked session whose capture was just recorded as settled.';

revoke all on function payments.complete_session(
    public.payment_checkout_sessions, payments.captures, text, text, timestamptz
) from public, anon, authenticated, service_role;

-- The session went with its user. Nothing can be fulfilled, but money that came for it is kept for a person to return.
create function payments.keep_orphaned_money(p_claim payments.captures, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures := p_claim;
begin
    v_capture.disposition := 'orphaned';
    v_capture.created_at := p_now;
    insert into payments.captures
    select v_capture.*
    where not exists ( -- it may be recorded under its page's id
        select from payments.captures as c
        where c.provider = p_claim.provider
            and c.provider_session_id = p_claim.provider_session_id
            and p_claim.provider_session_id in (c.provider_payment_id, p_claim.provider_payment_id)
    )
    on conflict do nothing;
end;
$$;

comment on function payments.keep_orphaned_money(payments.captures, timestamptz) is
'Records a capture for a session whose user was deleted, unless it is recorded already.';

revoke all on function payments.keep_orphaned_money(payments.captures, timestamptz)
from public, anon, authenticated, service_role;

-- A capture that was recorded under its page's id gets the payment's own, and the amount that the provider states: the
-- caller who knew only the page had to assume the price.
create function payments.name_capture(
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
begin
    update payments.captures as c
    set provider_payment_id = p_claim.provider_payment_id, amount = p_claim.amount, currency = p_claim.currency
    where c.provider = p_known.provider and c.provider_payment_id = p_known.provider_payment_id;
    if found and p_known.disposition = 'settled' then
        update public.payment_checkout_sessions as s
        set provider_payment_id = p_claim.provider_payment_id, updated_at = p_now
        where s.id = v_session.id;
        if (p_known.amount, p_known.currency) is distinct from (p_claim.amount, p_claim.currency) then
            perform payments.flag_session(
                v_session,
                case
                    when p_known.currency <> p_claim.currency then 'currency_mismatch'
                    when p_known.amount > p_claim.amount then 'amount_mismatch'
                    else 'overpaid'
                end,
                p_source, p_claim.paid_at, p_now
            );
        end if;
    end if;
end;
$$;

comment on function payments.name_capture(payments.captures, payments.captures, text, timestamptz) is
'Gives a capture that is known by its page the payment''s own id; flags the session when the money is not what was '
'assumed.';

revoke all on function payments.name_capture(payments.captures, payments.captures, text, timestamptz)
from public, anon, authenticated, service_role;

-- Is this money recorded already? Some callers know only the provider's page (the two p_stripe_ aliases), others the
-- payment as well. Both name the same money: a page or a payment that is another session's pays no second one.
create function payments.recognise_capture(p_claim payments.captures, p_source text, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known payments.captures;
    v_owner uuid;
begin
    select c.* into v_known
    from payments.captures as c
    where c.provider = p_claim.provider and c.provider_payment_id = p_claim.provider_payment_id;
    if not found and p_claim.provider_session_id is not null then
        select c.* into v_known
        from payments.captures as c
        where c.provider = p_claim.provider
            and c.provider_session_id = p_claim.provider_session_id
            and (
                c.session_id <> p_claim.session_id
                or p_claim.provider_session_id in (c.provider_payment_id, p_claim.provider_payment_id)
            )
        order by c.created_at
        limit 1;
        select a.session_id into v_owner
        from payments.attempts as a
        where a.provider = p_claim.provider and a.provider_session_id = p_claim.provider_session_id;
    end if;
    if p_claim.session_id <> coalesce(v_known.session_id, v_owner) then
        raise exception 'This payment of % belongs to another session.', p_claim.provider
            using errcode = 'PT409', detail = 'payment_reused',
            hint = 'A payment pays one session only. Look at both sessions before you refund anything.';
    end if;
    if v_known.provider_payment_id = v_known.provider_session_id
        and v_known.provider_payment_id <> p_claim.provider_payment_id
    then
        perform payments.name_capture(v_known, p_claim, p_source, p_now);
    end if;
    return v_known.session_id is not null;
end;
$$;

comment on function payments.recognise_capture(payments.captures, text, timestamptz) is
'True when the claimed money is recorded for its session. Raises PT409 payment_reused when it is another one''s.';

revoke all on function payments.recognise_capture(payments.captures, text, timestamptz)
from public, anon, authenticated, service_role;

-- The wrong money: too little, or another currency. It is recorded and flagged, and it fulfils nothing.
create function payments.refuse_capture(
    p_session public.payment_checkout_sessions,
    p_capture payments.captures,
    p_source text,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.move_session(
        p_session.id,
        array['pending', 'processing'],
        (
            'failed', p_source, p_capture.disposition, p_capture.disposition,
            format(
                '%s %s were due, %s %s came (minor units).',
                p_session.amount, p_session.currency, p_capture.amount, p_capture.currency
            )
        ),
        p_capture.paid_at,
        p_now
    );
    return payments.flag_session(
        payments.session_by_id(p_session.id), p_capture.disposition, p_source, p_capture.paid_at, p_now
    );
end;
$$;

comment on function payments.refuse_capture(
    public.payment_checkout_sessions, payments.captures, text, timestamptz
) is
'Fails an open session whose capture does not match its price, and flags it for review.';

revoke all on function payments.refuse_capture(
    public.payment_checkout_sessions, payments.captures, text, timestamptz
) from public, anon, authenticated, service_role;

-- Every proof of money ends here, whichever path it took. The capture's key and the index on settled captures decide
-- who was first; a replay only reads.
create function payments.settle_capture(
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
    return payments.session_answer(v_session, v_capture.disposition = 'duplicate');
end;
$$;

comment on function payments.settle_capture(payments.captures, text, text, timestamptz) is
'Records money proven received and does what it calls for: complete and fulfil, flag, or refuse. '
'Raises PT404 session_not_found, PT409 payment_reused.';

revoke all on function payments.settle_capture(payments.captures, text, text, timestamptz)
from public, anon, authenticated, service_role;

-- Late money: an expired, failed or cancelled session is being paid after all. A newer session of the same purchase
-- must not tempt the buyer to pay again: if it is unpaid it is cancelled, if it is paid a person looks at the two.
create function payments.yield_purchase(p_session public.payment_checkout_sessions, p_source text, p_now timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rival uuid;
begin
    -- two late payments of one purchase must see each other, and may not wait for each other's rows
    perform pg_advisory_xact_lock(
        hashtextextended(concat_ws(' ', p_session.user_id, p_session.product_id, p_session.subject), 7243920)
    );
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

-- Runs in the transaction that records the capture. A handler that fails (a full group, a bug) leaves a paid session
-- for review; passing trouble of the server (deadlock, disk, shutdown) undoes everything, so that a retry can succeed.
create function payments.fulfil(p_session public.payment_checkout_sessions)
returns payments.grant_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
    v_fulfilment jsonb;
    v_reason text;
begin
    select h.fulfil_function into strict v_function
    from payments.fulfilment_handlers as h
    where h.kind = p_session.kind;
    execute format('select %s($1)', v_function) into v_fulfilment using p_session;
    -- what a handler deferred must fail here, not at commit
    set constraints all immediate;
    return ('fulfilled', v_fulfilment, null, null, null)::payments.grant_result;
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

comment on function payments.fulfil(public.payment_checkout_sessions) is
'Gives the buyer what was paid for, through the handler of the session''s kind; never raises what a person must solve. '
'A handler that raises PTnnn speaks to the buyer; any other error is for operators only.';

revoke all on function payments.fulfil(public.payment_checkout_sessions) from public, anon, authenticated, service_role;

create function payments.fulfil_credits(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_credits bigint := (p_session.terms ->> 'credits')::bigint;
    v_balance bigint;
begin
    insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)
    values (p_session.user_id, v_credits, 'purchase', p_session.id, now());
    insert into public.payment_credit_balances as b (user_id, balance, updated_at)
    values (p_session.user_id, v_credits, now())
    on conflict (user_id) do update
        set balance = b.balance + excluded.balance, updated_at = excluded.updated_at
    returning b.balance into v_balance;
    return jsonb_build_object('kind', 'credits', 'credits', v_credits, 'balance', v_balance);
end;
$$;

comment on function payments.fulfil_credits(public.payment_checkout_sessions) is
'Adds terms.credits to the buyer''s balance, once per session. Answers {kind, credits, balance}.';

revoke all on function payments.fulfil_credits(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.fulfil_none(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object('kind', p_session.kind);
end;
$$;

comment on function payments.fulfil_none(public.payment_checkout_sessions) is
'For products that the host application delivers itself. Answers {kind}.';

revoke all on function payments.fulfil_none(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function payments.fulfil_subscription(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_tier text := p_session.terms ->> 'tier';
    v_period interval := (p_session.terms ->> 'period')::interval;
    v_starts_at timestamptz;
    v_ends_at timestamptz;
begin
    insert into public.payment_subscriptions (user_id, tier, started_at, ends_at, updated_at)
    values (p_session.user_id, v_tier, now(), now(), now())
    on conflict (user_id, tier) do nothing;
    select greatest(s.ends_at, now()) into v_starts_at
    from public.payment_subscriptions as s
    where s.user_id = p_session.user_id and s.tier = v_tier
    for no key update;
    v_ends_at := v_starts_at + v_period;
    update public.payment_subscriptions as s
    set started_at = case when s.ends_at > now() then s.started_at else now() end,
        ends_at = v_ends_at,
        updated_at = now()
    where s.user_id = p_session.user_id and s.tier = v_tier;
    insert into payments.subscription_periods (session_id, user_id, tier, starts_at, ends_at, created_at)
    values (p_session.id, p_session.user_id, v_tier, v_starts_at, v_ends_at, now());
    return jsonb_build_object('kind', 'subscription', 'tier', v_tier, 'ends_at', v_ends_at);
end;
$$;

comment on function payments.fulfil_subscription(public.payment_checkout_sessions) is
'Starts or extends the buyer''s tier by terms.period, once per session. Answers {kind, tier, ends_at}.';

revoke all on function payments.fulfil_subscription(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

insert into payments.fulfilment_handlers (kind, fulfil_function)
values
('credits', 'payments.fulfil_credits'),
('subscription', 'payments.fulfil_subscription'),
('none', 'payments.fulfil_none');

insert into payments.settings default values;
