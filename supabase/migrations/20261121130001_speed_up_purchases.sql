-- Purpose: make purchases cheaper: the rules of a session row in one trigger instead of nine constraints that each
--          statement compiles anew, an index for the captures of a session, fewer statements per call.
-- Locks:   ACCESS EXCLUSIVE on payment_checkout_sessions and captures while two small indexes and one on all captures
--          are built: about a second per million captures. Run it at a quiet moment.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
-- squawk-ignore-file ban-drop-constraint, ban-drop-function
-- squawk-ignore-file require-concurrent-index-creation, require-concurrent-index-deletion
set lock_timeout = '5s';

create function payments.refund_answer(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select jsonb_build_object(
            'refundable_amount', payments.refundable_amount(p_session),
            'refund_count', count(*),
            'refund_under_way', min(r.provider_refund_id) filter (where r.kind = 'refund' and r.status = 'pending'),
            'refund_statuses', coalesce(jsonb_object_agg(r.provider_refund_id, r.status), '{}')
        )
        from public.payment_refunds as r
        where r.session_id = p_session.id
    );
end;
$$;

comment on function payments.refund_answer(public.payment_checkout_sessions) is
'What the bridge needs to know before it asks for a refund. Amounts in minor units.';

revoke all on function payments.refund_answer(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

-- What must hold for every session row, enforced where nobody can forget it. docs/states.md draws the state machine; a
-- test holds the two together. A trigger, because Postgres reads and compiles a table's CHECK constraints anew in every
-- statement: these rules as constraints cost half of an insert (docs/adr/0012).
create function payments.guard_session()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_broken text := case
        when new.status not in (
            'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
        ) then 'status_is_known'
        when new.fulfilment_status not in ('none', 'fulfilled', 'failed', 'reversed') then 'fulfilment_status_is_known'
        when (new.completed_at is not null) <> (new.status in ('completed', 'partially_refunded', 'refunded'))
            then 'paid_ones_have_a_time'
        when new.fulfilment_status <> 'none' and new.completed_at is null then 'fulfil_only_what_is_paid'
        when new.amount < 0 or new.discount_amount < 0 or new.amount <> new.original_amount - new.discount_amount
            then 'amounts_add_up'
        when new.refunded_amount not between 0 and new.amount then 'refund_only_what_is_paid'
        when new.checkout_url is not null and new.current_attempt is null then 'store_the_attempt_before_its_page'
        when new.currency !~ '^[A-Z]{3}$' then 'currency_is_an_iso_code'
        when length(new.subject) > 200 or length(new.email) > 320 or length(new.idempotency_key) > 255
            or octet_length(new.metadata::text) > 8192
            then 'texts_are_short'
    end;
begin
    if v_broken is not null then
        raise exception 'A checkout session must keep the rule payment_checkout_sessions_%.', v_broken
            using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name,
            constraint = 'payment_checkout_sessions_' || v_broken, hint = 'See payments.guard_session.';
    end if;
    if tg_op = 'INSERT' or new.status = old.status or (case old.status
        when 'pending' then new.status in ('processing', 'completed', 'failed', 'expired', 'cancelled')
        when 'processing' then new.status in ('completed', 'failed', 'expired', 'cancelled')
        when 'failed' then new.status in ('processing', 'completed')
        when 'expired' then new.status in ('processing', 'completed')
        when 'cancelled' then new.status in ('processing', 'completed')
        when 'completed' then new.status in ('partially_refunded', 'refunded')
        when 'partially_refunded' then new.status in ('refunded', 'completed')
        when 'refunded' then new.status in ('partially_refunded', 'completed')
        else false
    end) then
        return new;
    end if;
    raise exception 'A checkout session cannot go from % to %.', old.status, new.status
        using errcode = 'PT409', detail = 'illegal_transition', hint = 'See docs/states.md for the allowed changes.';
end;
$$;

comment on function payments.guard_session() is
'Row trigger of checkout sessions. Raises check_violation with the name of the rule that is broken, PT409 '
'illegal_transition.';

revoke all on function payments.guard_session() from public, anon, authenticated, service_role;

drop trigger guard_session_status on public.payment_checkout_sessions;
drop function payments.guard_session_status();

create trigger guard_session
before insert or update on public.payment_checkout_sessions
for each row
execute function payments.guard_session();

alter table public.payment_checkout_sessions
drop constraint payment_checkout_sessions_status_is_known,
drop constraint payment_checkout_sessions_fulfilment_status_is_known,
drop constraint payment_checkout_sessions_fulfil_only_what_is_paid,
drop constraint payment_checkout_sessions_paid_ones_have_a_time,
drop constraint payment_checkout_sessions_currency_is_an_iso_code,
drop constraint payment_checkout_sessions_amounts_add_up,
drop constraint payment_checkout_sessions_refund_only_what_is_paid,
drop constraint payment_checkout_sessions_store_the_attempt_before_its_page,
drop constraint payment_checkout_sessions_texts_are_short;

drop index public.payment_checkout_sessions_due;
create index payment_checkout_sessions_due
on public.payment_checkout_sessions (expires_at)
where status in ('pending', 'processing') and expires_at > '-infinity';

drop index payments.captures_one_settles_a_session;
create unique index captures_one_settles_a_session
on payments.captures (session_id, (case when disposition = 'settled' then true end));

-- One id maker for every Postgres major, so that ids mean the same everywhere (UUIDv7 layout, RFC 9562):
--   48 bits milliseconds | 4 version | 12 fraction of the millisecond | 2 variant | 52 random | 10 shard
-- Ids of one user therefore sort by creation, and a router can tell the shard of an id without a look-up.
create or replace function payments.new_time_ordered_id(p_user_id uuid)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_microseconds bigint := extract(epoch from clock_timestamp()) * 1000000;
    -- md5, because the built-in uuid hash may change between majors and a shard must never move
    v_shard int := ('x' || left(md5(p_user_id::text), 3))::bit(12)::int >> 2;
begin
    -- the second half of a random UUID brings the variant and the random bits with it
    return (
        lpad(to_hex(((v_microseconds / 1000) << 16) | 28672 | ((v_microseconds % 1000) * 4096 / 1000)), 16, '0')
        || to_hex(
            (('x' || right(translate(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint & -1024) | v_shard
        )
    )::uuid;
end;
$$;

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
    if p_price is not null then
        perform payments.check_expected_price(p_price, v_offer);
    end if;
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
    select p_now + s.session_ttl into v_draft.expires_at from payments.settings as s;
    return v_draft;
end;
$$;

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
    v_fingerprint text := case when p_idempotency_key is not null then md5(jsonb_build_array(
        p_plan, p_email, trim_scale(p_price), p_provider, upper(p_currency), p_coupon, p_subject, p_metadata
    )::text) end;
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

create or replace function payments.insert_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
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
        p_draft.idempotency_key, p_draft.idempotency_fingerprint,
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

-- What becomes of the open session that stands where the draft wants to be: its id when the draft can have it, null
-- when it was moved out of the way. Reuse writes nothing but its first idempotency key, and an e-mail address that has
-- changed.
create or replace function payments.reuse_session(
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
            idempotency_fingerprint = coalesce(s.idempotency_fingerprint, p_draft.idempotency_fingerprint),
            updated_at = p_now
        where s.id = p_open.id;
    end if;
    return p_open.id;
exception
    when unique_violation then -- the key was taken by another session meanwhile: the caller looks again
        return null;
end;
$$;

create or replace function payments.attempt_answer(
    p_session public.payment_checkout_sessions,
    p_attempt payments.attempts
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_product_name text;
begin
    select p.name into v_product_name from public.payment_products as p where p.id = p_session.product_id;
    return payments.session_answer(p_session, p_session.completed_at is not null) || jsonb_build_object(
        'user_id', p_session.user_id,
        'amount', p_session.amount,
        'currency', p_session.currency,
        'email', p_session.email,
        'product_id', p_session.product_id,
        'product_name', v_product_name,
        'provider', coalesce(p_attempt.provider, p_session.provider),
        'provider_payment_id', p_session.provider_payment_id,
        'session_expires_at', p_session.expires_at,
        'number', p_attempt.number,
        'reference', p_attempt.reference,
        'provider_session_id', p_attempt.provider_session_id,
        'checkout_url', p_attempt.checkout_url,
        'created_at', p_attempt.created_at,
        'expires_at', p_attempt.expires_at
    ) || case
        when p_session.completed_at is null
            then '{"refundable_amount": 0, "refund_count": 0, "refund_under_way": null, "refund_statuses": {}}'
        else payments.refund_answer(p_session)
    end;
end;
$$;

-- A page that is still alive is shown again, and an attempt whose page is just being opened (by a double click, or by a
-- bridge that crashed) is continued under the same reference: providers with idempotency keys then answer with the same
-- page, so that no buyer holds two live pages.
create or replace function payments.reusable_attempt(
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
    if v_review is not null then
        perform payments.alert_review(v_session, p_session.review_reason, reason, p_now)
        from unnest(string_to_array(v_review, ', ')) as reason;
    end if;
    perform payments.queue_notification(v_session, 'receipt', '', '{}', p_now);
    perform payments.issue_document('invoice', v_session, v_session.amount, p_now);
    return v_session;
end;
$$;

-- The counter's row lock lasts until commit: only so does a rollback leave no gap. Purchases would queue at it, one
-- disk flush each, so nobody waits: who finds it locked goes on without a number (number_payment_invoices).
create or replace function payments.number_document(p_document public.payment_invoices, p_now timestamptz)
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
    update payments.invoice_counters as c
    set last_number = c.last_number + 1
    where (c.series, c.year) = (
        select k.series, k.year
        from payments.invoice_counters as k
        where k.series = v_document.series and k.year = v_document.year
        for no key update skip locked
    )
    returning c.last_number into v_document.number;
    if not found and pg_try_advisory_xact_lock(hashtextextended(v_document.series || v_document.year, 7243921)) then
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

-- The sessions themselves are the record: a sliding window over the user's newest ids, and nothing is written.
create or replace function payments.limit_new_sessions(p_user_id uuid, p_now timestamptz)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit int;
    v_window interval;
    v_blocking timestamptz;
begin
    select t.create_limit, t.rate_window into v_limit, v_window from payments.settings as t;
    if v_limit is null then
        return;
    end if;
    -- the session that must leave the window before the user may make this one
    select s.created_at into v_blocking
    from public.payment_checkout_sessions as s
    where s.user_id = p_user_id and s.id >= payments.first_id_at(p_now - v_window)
    order by s.id desc
    offset v_limit -- the new one is there already: who loses a race to insert makes none and is not counted
    limit 1;
    if found then
        perform payments.refuse_for_now('checkout sessions', v_blocking + v_window - p_now);
    end if;
end;
$$;

create or replace function public.expire_old_checkout_sessions(p_limit int default 10000)
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
    perform payments.check_limit(p_limit);
    with due as (
        select s.id, s.status
        from public.payment_checkout_sessions as s
        where s.status in ('pending', 'processing') and s.expires_at <= now() and s.expires_at > '-infinity'
        order by s.expires_at
        limit p_limit
        for no key update skip locked
    ),

    expired as (
        update public.payment_checkout_sessions as s
        set status = 'expired', updated_at = now()
        from due
        where s.id = due.id
        returning s.id, due.status as from_status, s.coupon_id
    ),

    released as (
        update payments.coupon_redemptions as r
        set status = 'released', updated_at = now()
        from expired
        where expired.coupon_id is not null and r.session_id = expired.id and r.status = 'reserved'
    )

    insert into payments.session_events (session_id, from_status, to_status, source, reason, created_at)
    select expired.id, expired.from_status, 'expired', 'cron', 'lapsed', now()
    from expired;
    get diagnostics v_count = row_count;
    return v_count;
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

-- Pages on which this purchase can still be paid, or has been without our knowing: earlier ones of the session, and
-- those of its closed sessions. Before a new page opens they are closed; when a buyer asks, they are asked about too.
create or replace function payments.other_pages(
    p_session public.payment_checkout_sessions,
    p_attempt_number bigint,
    p_now timestamptz
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_sessions uuid[] := array(
        select s.id
        from payments.sessions_of_purchase(p_session) as s
        where s.id = p_session.id or s.status in ('failed', 'expired', 'cancelled')
    );
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'provider', page.provider, 'provider_session_id', page.provider_session_id
        )), '[]')
        from (
            select a.provider, a.provider_session_id
            from payments.attempts as a
            where a.session_id = any(v_sessions)
                and a.number is distinct from p_attempt_number
                and a.provider_session_id is not null
                and a.status in ('open', 'processing')
                and a.created_at > p_now - interval '3 days'
            -- not by number: the planner would walk the newest attempts of everybody
            order by a.created_at desc
            limit 5
        ) as page
    );
end;
$$;

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
        when v_outcome.refunds <> '[]' and payments.wrong_refund_field(v_outcome.refunds) is not null
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
    v_session := payments.session_by_id(p_claim.session_id);
    -- recorded money has left its mark on the session: an untouched one needs no look before the lock
    if (v_session.status <> 'pending' or v_session.review_reason is not null)
        and payments.recognise_capture(p_claim, p_source, p_now)
    then
        v_session := payments.session_by_id(p_claim.session_id);
        return payments.session_answer(v_session, v_session.completed_at is not null);
    end if;
    if v_session.status in ('failed', 'expired', 'cancelled') then -- late money (yield_purchase)
        perform payments.lock_purchase(v_session);
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

create or replace function payments.issue_document(
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
    select
        case p_kind when 'invoice' then t.invoice_series else t.credit_note_series end, null::int, null::int, p_kind,
        p_session.id, p_session.user_id, p_session.email, p_session.product_id, p.name, p_session.currency,
        p_session.original_amount, p_session.discount_amount, p_amount,
        p_session.provider, p_session.provider_payment_id, p_session.completed_at
    into
        v_document.series, v_document.year, v_document.number, v_document.kind,
        v_document.session_id, v_document.user_id, v_document.email, v_document.product_id, v_document.product_name,
        v_document.currency, v_document.original_amount, v_document.discount_amount, v_document.amount,
        v_document.provider, v_document.provider_payment_id, v_document.paid_at
    from payments.settings as t
    left join public.payment_products as p on p.id = p_session.product_id;
    if not payments.number_document(v_document, p_now) then
        insert into payments.unnumbered_invoices (document, created_at) values (to_jsonb(v_document), p_now);
    end if;
end;
$$;
