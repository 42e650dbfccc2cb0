-- Purpose: the functions that clients, workers and operators call, and views for reports.
-- Locks:   EXCLUSIVE on public.payment_checkout_sessions while older sessions get their invoices
--          (readers go on, purchases wait; 3 seconds for 40,000 paid sessions).
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create or replace function public.get_or_create_checkout_session(
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
'payment_prices: p_price (major units) is only checked. A coupon that takes the whole price completes the session at '
'once. Raises PT404 product_unknown, group_unknown, PT422 currency_unavailable, coupon_unknown, coupon_expired, '
'coupon_not_applicable, price_mismatch, provider_unknown, invalid_input, group_product_mismatch, user_required, '
'user_unknown, PT409 idempotency_conflict, coupon_exhausted, group_full, already_member, not_a_member, '
'contribution_paid, PT429 too_many_requests, PT401 not_signed_in, PT403 not_your_session, PT503 try_again.';

revoke all on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) from public, anon, authenticated, service_role;
grant execute on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) to authenticated, service_role;

create or replace function public.payment_history(
    p_page int default 1, p_page_size int default 20, p_status text default null
)
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
        raise exception 'There is no status %.', quote_literal(left(p_status, 64))
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

create or replace function public.quote_checkout(p_plan text, p_currency text default null, p_coupon text default null)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_offer payments.offer := payments.make_offer(p_plan, p_currency, p_coupon);
begin
    if v_offer.coupon_id is not null then
        perform payments.check_coupon_place(v_offer.coupon_id, auth.uid());
    end if;
    return jsonb_build_object(
        'plan', v_offer.product_id,
        'name', v_offer.name,
        'terms', v_offer.terms,
        'currency', v_offer.currency,
        'original_amount', v_offer.original_amount,
        'discount_amount', v_offer.discount_amount,
        'amount', v_offer.amount,
        'coupon', v_offer.coupon_id
    );
end;
$$;

comment on function public.quote_checkout(text, text, text) is
'What a purchase would cost, in minor units, without creating anything. Raises PT404 product_unknown, PT422 '
'currency_unavailable, coupon_unknown, coupon_expired, coupon_not_applicable, PT409 coupon_exhausted.';

revoke all on function public.quote_checkout(text, text, text) from public, anon, authenticated, service_role;
grant execute on function public.quote_checkout(text, text, text) to authenticated, service_role;

create or replace function public.abandon_checkout_attempt(
    p_attempt bigint, p_error_code text, p_error_message text default null
)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.attempts as a
    set status = 'failed', error_code = left(p_error_code, 255), error_message = left(p_error_message, 500)
    where a.number = p_attempt and a.status = 'open' and a.checkout_url is null;
end;
$$;

comment on function public.abandon_checkout_attempt(bigint, text, text) is
'Gives up an attempt whose page could not be opened, so that the next try gets a new reference. The session stays '
'pending; an attempt that has a page is left alone.';

revoke all on function public.abandon_checkout_attempt(bigint, text, text)
from public, anon, authenticated, service_role;
grant execute on function public.abandon_checkout_attempt(bigint, text, text) to service_role;

create or replace function public.attach_checkout_attempt(
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
    if coalesce(length(p_provider_session_id), 0) not between 1 and 255
        or coalesce(p_checkout_url, '') !~ '^https?://[^[:space:][:cntrl:]]+$' or length(p_checkout_url) > 4000
        or p_expires_at not between '1970-01-01Z' and now() + interval '1 year'
    then
        raise exception
            'p_provider_session_id (1 to 255 characters) and p_checkout_url (http) are needed, p_expires_at within a year.'
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
        expires_at = coalesce(p_expires_at, a.expires_at),
        -- while it had no page there was nothing to ask about, and the reconciler may have let it go
        reconcile_at = coalesce(a.reconcile_at, now() + (select s.reconcile_after[1] from payments.settings as s))
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

create function public.claim_notifications(p_limit int default 50)
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
        'occurrence', c.occurrence, 'invoice', (
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

comment on function public.claim_notifications(int) is
'Up to p_limit due notifications, each for one worker: {id, session_id, user_id, kind, email (null: the operator), '
'payload, tries}. The claim lasts 5 minutes; end it with finish_notification.';

revoke all on function public.claim_notifications(int) from public, anon, authenticated, service_role;
grant execute on function public.claim_notifications(int) to service_role;

-- The queue is the current attempts themselves. A claim moves the next time on, so that a crashed worker's session
-- comes back; what has been settled meanwhile leaves the queue here, and its purchase never paid for that.
create function public.claim_sessions_to_reconcile(p_limit int default 50)
returns table (session_id uuid, provider text, reference text, provider_session_id text, tries int)
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
        select a.number, (
            s.id is not null and s.completed_at is null and a.provider_session_id is not null
            and a.status in ('open', 'processing')
        ) as unsettled
        from payments.attempts as a
        left join public.payment_checkout_sessions as s on a.session_id = s.id and a.number = s.current_attempt
        where a.reconcile_at <= now()
        order by a.reconcile_at
        limit p_limit
        for no key update of a skip locked
    ),

    claimed as (
        update payments.attempts as a
        set reconcile_at = case when due.unsettled then now() + interval '5 minutes' end,
            reconcile_tries = a.reconcile_tries + due.unsettled::int
        from due
        where a.number = due.number
        returning a.*
    )

    select c.session_id, c.provider, c.reference, c.provider_session_id, c.reconcile_tries
    from claimed as c
    where c.reconcile_at is not null;
end;
$$;

comment on function public.claim_sessions_to_reconcile(int) is
'Looks at up to p_limit due pages and gives those whose provider must be asked, each to one worker: {session_id, '
'provider, reference, provider_session_id, tries}. The claim lasts 5 minutes; end it with finish_reconcile.';

revoke all on function public.claim_sessions_to_reconcile(int) from public, anon, authenticated, service_role;
grant execute on function public.claim_sessions_to_reconcile(int) to service_role;

create function public.cleanup_completed_checkout_sessions(
    p_older_than interval default '90 days',
    p_limit int default 10000
)
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
    if p_older_than < interval '1 day' then
        raise exception 'p_older_than must be a day at least.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Late money and refunds need their sessions.';
    end if;
    with old as (
        select s.id
        from public.payment_checkout_sessions as s
        where s.id < payments.first_id_at(now() - p_older_than)
            and s.status not in ('pending', 'processing')
            and s.review_reason is null
            and s.updated_at < now() - p_older_than
        order by s.id
        limit p_limit
        for update skip locked
    )

    delete from public.payment_checkout_sessions as s
    using old
    where s.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_completed_checkout_sessions(interval, int) is
'Deletes up to p_limit closed sessions that nothing has happened to for so long, oldest first, and returns how many. '
'Those in review stay. Captures, refunds, credit entries, invoices and the audit trail are kept. Raises PT422 '
'invalid_input.';

revoke all on function public.cleanup_completed_checkout_sessions(interval, int)
from public, anon, authenticated, service_role;
grant execute on function public.cleanup_completed_checkout_sessions(interval, int) to service_role;

create or replace function public.cleanup_idempotency_keys(p_older_than interval default '24 hours')
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
    if p_older_than < interval '0' then
        raise exception 'p_older_than must not be negative.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Keep keys for as long as clients repeat requests.';
    end if;
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

revoke all on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) from public, anon, authenticated, service_role;
grant execute on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) to service_role;

-- Only to buyers who agreed: metadata.reminders is true, as the app asked them. Only while the session can be paid.
create function public.enqueue_payment_reminders()
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
    with abandoned as (
        select s.*, reminder.number
        from public.payment_checkout_sessions as s
        cross join payments.settings as t
        cross join lateral (
            select count(*)::int + 1 as number, max(n.created_at) as last_at
            from payments.notifications as n
            where n.session_id = s.id and n.kind = 'reminder'
        ) as reminder
        where s.status = 'pending'
            and s.expires_at > now()
            and s.email is not null
            and s.metadata @> '{"reminders": true}'
            and reminder.number <= t.reminder_limit
            and coalesce(reminder.last_at, s.created_at) <= now() - t.reminder_after
    ),

    queued as (
        insert into payments.notifications (session_id, user_id, kind, occurrence, email, payload, due_at, created_at)
        select a.id, a.user_id, 'reminder', a.number, a.email, jsonb_build_object(
            'product_id', a.product_id, 'amount', a.amount, 'currency', a.currency, 'checkout_url', a.checkout_url,
            'expires_at', a.expires_at
        ), now(), now()
        from abandoned as a
        on conflict do nothing
        returning 1
    )

    select count(*) into v_count from queued;
    return v_count;
end;
$$;

comment on function public.enqueue_payment_reminders() is
'Queues a reminder for each unpaid session that is due one, and returns how many: after settings.reminder_after, at '
'most settings.reminder_limit, with an address, and with {"reminders": true} in the metadata as the buyer''s consent.';

revoke all on function public.enqueue_payment_reminders() from public, anon, authenticated, service_role;
grant execute on function public.enqueue_payment_reminders() to service_role;

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

comment on function public.expire_old_checkout_sessions(int) is
'Expires up to p_limit lapsed sessions, oldest first, with their coupon places, and returns how many. Sessions that '
'another transaction holds are left for the next call. Money that still arrives for an expired session is honoured.';

revoke all on function public.expire_old_checkout_sessions(int) from public, anon, authenticated, service_role;
grant execute on function public.expire_old_checkout_sessions(int) to service_role;

create or replace function public.find_checkout_attempt(
    p_session_id uuid default null,
    p_reference text default null,
    p_provider text default null,
    p_provider_session_id text default null,
    p_user_id uuid default null
)
returns jsonb
language plpgsql
volatile -- counts a buyer's verifications
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
    if p_user_id is not null then
        perform payments.limit_verifications(p_user_id, now());
    end if;
    return payments.attempt_answer(v_session, v_attempt) || jsonb_build_object(
        'other_pages', payments.other_pages(v_session, v_attempt.number, now())
    );
end;
$$;

comment on function public.find_checkout_attempt(uuid, text, text, text, uuid) is
'The session and attempt that the bridge must ask the provider about, found by any one of the ids; p_user_id restricts '
'it to that buyer, who may verify settings.verify_limit times per window. Raises PT404 session_not_found, PT403 '
'not_your_session, PT429 too_many_requests.';

revoke all on function public.find_checkout_attempt(uuid, text, text, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function public.find_checkout_attempt(uuid, text, text, text, uuid) to service_role;

create function public.finish_notification(p_id bigint, p_error text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.notifications as n
    set status = case
            when p_error is null then 'sent'
            when n.tries >= s.notification_tries then 'dead'
            else 'queued'
        end,
        error = left(p_error, 500),
        -- 1, 2, 4 … minutes, at most 6 hours
        due_at = now() + least(interval '1 minute' * 2 ^ least(n.tries - 1, 20), interval '6 hours'),
        finished_at = case when p_error is null or n.tries >= s.notification_tries then now() end
    from payments.settings as s
    where n.id = p_id and n.status = 'queued' and n.tries > 0;
    if not found and not exists (select from payments.notifications as n where n.id = p_id and n.tries > 0) then
        raise exception 'Notification % was not claimed.', p_id
            using errcode = 'PT404', detail = 'notification_not_claimed', hint = 'Pass an id that claim_notifications gave.';
    end if;
end;
$$;

comment on function public.finish_notification(bigint, text) is
'Ends a claimed notification: sent, or (with p_error) queued again with growing waits, dead after '
'settings.notification_tries. One that has ended stays as it is. Raises PT404 notification_not_claimed.';

revoke all on function public.finish_notification(bigint, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_notification(bigint, text) to service_role;

create function public.finish_reconcile(p_session_id uuid, p_result text, p_detail text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_next timestamptz;
    v_last_word text;
begin
    perform payments.require_service();
    if p_result is null or p_result not in ('asked', 'failed') then
        raise exception 'p_result must be asked or failed.'
            using errcode = 'PT422', detail = 'invalid_input',
            hint = 'asked: the provider answered and its word was applied; failed: it could not be asked.';
    end if;
    v_session := payments.lock_session(p_session_id);
    v_next := payments.next_reconcile(v_session, now());
    update payments.attempts as a
    set reconcile_at = v_next
    where a.number = v_session.current_attempt and a.reconcile_at is not null
    returning a.status into v_last_word;
    if found and v_next is null and v_session.completed_at is null
        and (p_result = 'failed' or v_last_word = 'processing')
    then
        perform payments.flag_session(v_session, 'reconcile_gave_up', 'reconcile', null, now(), left(p_detail, 1000));
    end if;
end;
$$;

comment on function public.finish_reconcile(uuid, text, text) is
'Ends a claim of claim_sessions_to_reconcile and sets when to ask again (settings.reconcile_after, once more after the '
'session has expired). When that was the last time and the truth is still unknown, the session goes to review. Raises '
'PT404 session_not_found, PT422 invalid_input.';

revoke all on function public.finish_reconcile(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_reconcile(uuid, text, text) to service_role;

create function public.number_payment_invoices(p_limit int default 1000)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_waiting payments.unnumbered_invoices;
    v_count int := 0;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    -- wait for whoever is numbering; from here on the counters are ours
    perform 1
    from payments.invoice_counters as c
    where c.year = extract(year from now() at time zone 'UTC')
    order by c.series
    for no key update;
    for v_waiting in
        select u.* from payments.unnumbered_invoices as u order by u.id limit p_limit for update skip locked
    loop
        exit when not payments.number_document(
            jsonb_populate_record(null::public.payment_invoices, v_waiting.document), now()
        );
        delete from payments.unnumbered_invoices as u where u.id = v_waiting.id;
        v_count := v_count + 1;
    end loop;
    return v_count;
end;
$$;

comment on function public.number_payment_invoices(int) is
'Numbers up to p_limit documents of purchases that happened at the same moment as another one, in the order of the '
'purchases, and returns how many. Run it every minute.';

revoke all on function public.number_payment_invoices(int) from public, anon, authenticated, service_role;
grant execute on function public.number_payment_invoices(int) to service_role;

create or replace function public.open_checkout_attempt(p_session_id uuid, p_provider text default null)
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
    if v_session.status <> 'pending' then
        raise exception 'This session cannot be paid: it is %.', v_session.status
            using errcode = 'PT409', detail = 'session_not_pending', hint = 'Create a session for a new purchase.';
    end if;
    if v_session.expires_at <= now() then
        raise exception 'This session expired at %.', v_session.expires_at
            using errcode = 'PT410', detail = 'session_expired', hint = 'Call get_or_create_checkout_session again.';
    end if;
    perform payments.check_provider(v_provider);
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

create function public.record_heartbeat(p_name text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if coalesce(length(p_name), 0) not between 1 and 100 then
        raise exception 'p_name must have 1 to 100 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Name the worker, the same each time.';
    end if;
    insert into payments.heartbeats (name, beat_at)
    values (p_name, now())
    on conflict (name) do update set beat_at = excluded.beat_at;
end;
$$;

comment on function public.record_heartbeat(text) is
'Notes that a worker is at work; payment_health shows when it last was. Raises PT422 invalid_input.';

revoke all on function public.record_heartbeat(text) from public, anon, authenticated, service_role;
grant execute on function public.record_heartbeat(text) to service_role;

create or replace function public.record_webhook_failure(
    p_provider text, p_event jsonb, p_error text, p_retryable boolean
)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_event(p_event);
    if coalesce(p_provider, '') !~ '^[a-z][a-z0-9_-]{0,62}$' then
        raise exception 'p_provider must name a provider.'
            using errcode = 'PT422', detail = 'event_invalid', hint = 'Pass the name under which the bridge knows it.';
    end if;
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

create function public.refund_checkout_session(
    p_session_id uuid,
    p_provider_refund_id text,
    p_amount bigint,
    p_status text default 'succeeded',
    p_reason text default null
)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_refund public.payment_refunds;
begin
    perform payments.require_service();
    if coalesce(length(p_provider_refund_id), 0) not between 1 and 255
        or coalesce(p_amount, 0) <= 0
        or p_status is null or p_status not in ('pending', 'succeeded', 'failed')
    then
        raise exception 'p_provider_refund_id (1 to 255 characters), a positive p_amount and a known p_status are needed.'
            using errcode = 'PT422', detail = 'invalid_input',
            hint = 'Pass minor units; p_status is pending, succeeded or failed.';
    end if;
    v_session := payments.lock_session(p_session_id);
    v_refund.provider := v_session.provider;
    v_refund.provider_refund_id := p_provider_refund_id;
    v_refund.session_id := v_session.id;
    v_refund.user_id := v_session.user_id;
    v_refund.kind := 'refund';
    v_refund.amount := p_amount;
    v_refund.currency := v_session.currency;
    v_refund.status := p_status;
    v_refund.reason := left(p_reason, 500);
    if payments.capture_of_refund(v_refund) is null then
        raise exception 'No money of this session is known: it is %.', v_session.status
            using errcode = 'PT409', detail = 'nothing_to_refund', hint = 'Complete the session first.';
    end if;
    perform payments.record_refund(v_refund, 'admin', now());
    v_session := payments.settle_refunds(payments.session_by_id(p_session_id), 'admin', null, now());
    return payments.session_answer(v_session, v_session.completed_at is not null)
        || jsonb_build_object('refunded_amount', v_session.refunded_amount);
end;
$$;

comment on function public.refund_checkout_session(uuid, text, bigint, text, text) is
'Records a refund of a session''s payment (minor units), once per p_provider_refund_id; the purchase is taken back in '
'proportion. More than was paid is refused and put in review. Answers what complete_checkout_session answers, and '
'refunded_amount. Raises PT404 session_not_found, PT409 nothing_to_refund, PT422 invalid_input, PT503 try_again.';

revoke all on function public.refund_checkout_session(uuid, text, bigint, text, text)
from public, anon, authenticated, service_role;
grant execute on function public.refund_checkout_session(uuid, text, bigint, text, text) to service_role;

create or replace function public.retry_fulfilment(p_session_id uuid)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_result payments.grant_result;
    v_reverse boolean;
begin
    perform payments.require_service();
    v_session := payments.lock_session(p_session_id);
    if v_session.fulfilment_status <> 'failed'
        and 'reversal_failed' <> all(string_to_array(coalesce(v_session.review_reason, ''), ', '))
    then
        raise exception 'Nothing to retry: the session is % and its fulfilment is %.',
            v_session.status, v_session.fulfilment_status
            using errcode = 'PT409', detail = 'nothing_to_retry',
            hint = 'Only paid sessions whose fulfilment or its reversal failed can be retried.';
    end if;
    v_reverse := v_session.fulfilment is not null or v_session.refunded_amount > 0;
    if v_session.fulfilment is null then
        v_result := payments.fulfil(v_session);
        v_session := payments.note_fulfilment(p_session_id, v_result, now());
    end if;
    if v_reverse and v_session.fulfilment is not null then
        v_result := payments.reverse_fulfilment(v_session, v_session.refunded_amount::numeric(60, 40) / v_session.amount);
        v_session := payments.note_fulfilment(p_session_id, v_result, now());
    end if;
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin',
        case v_result.fulfilment_status when 'failed' then 'fulfilment_failed' else 'fulfilment_retried' end, null, now(),
        v_result.detail
    );
    return payments.session_answer(v_session, true);
end;
$$;

comment on function public.retry_fulfilment(uuid) is
'Tries again to give the buyer of a paid session what was paid for, or to take back what was refunded. Raises PT404 '
'session_not_found, PT409 nothing_to_retry.';

revoke all on function public.retry_fulfilment(uuid) from public, anon, authenticated, service_role;
grant execute on function public.retry_fulfilment(uuid) to service_role;

-- Each guarantee as a question about the data. Constraints make most of the answers impossible; asking anyway is how a
-- restored, hand-edited or half-migrated database is found out. One function per area, in this folder.
create or replace function public.check_payment_invariants()
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
    select r.* from payments.broken_session_rules() as r
    union all
    select r.* from payments.broken_credit_rules() as r
    union all
    select r.* from payments.broken_grant_rules() as r
    union all
    select r.* from payments.broken_coupon_rules() as r
    union all
    select r.* from payments.broken_refund_rules() as r;
end;
$$;

comment on function public.check_payment_invariants() is
'The guarantees that do not hold, one row each: invariant, subject (a session or user id), detail. No rows: healthy. '
'Reads everything: run it at a quiet hour, or on a replica.';

revoke all on function public.check_payment_invariants() from public, anon, authenticated, service_role;
grant execute on function public.check_payment_invariants() to service_role;

create view public.payment_daily_conversion with (security_invoker = true) as
select
    s.product_id,
    s.provider,
    (s.created_at at time zone 'UTC')::date as day,
    count(*) as created,
    count(s.completed_at) as completed,
    count(*) filter (where s.status = 'expired') as expired,
    count(*) filter (where s.status = 'failed') as failed,
    count(*) filter (where s.status = 'cancelled') as cancelled,
    round(count(s.completed_at)::numeric / count(*), 4) as conversion_rate
from public.payment_checkout_sessions as s
group by 1, 2, 3;

comment on view public.payment_daily_conversion is
'For BI tools: what became of the sessions of each day (UTC), per product and provider.';

revoke all on table public.payment_daily_conversion from public, anon, authenticated, service_role;
grant select on table public.payment_daily_conversion to service_role;

-- From the documents, so that a refund counts on its own day and the numbers agree with the accounts.
create view public.payment_daily_revenue with (security_invoker = true) as
select
    i.product_id,
    i.provider,
    i.currency,
    (i.issued_at at time zone 'UTC')::date as day,
    count(*) filter (where i.kind = 'invoice') as sales,
    coalesce(sum(i.amount) filter (where i.kind = 'invoice'), 0) as sold,
    -coalesce(sum(i.amount) filter (where i.kind <> 'invoice'), 0) as refunded,
    sum(i.amount) as revenue
from public.payment_invoices as i
group by 1, 2, 3, 4;

comment on view public.payment_daily_revenue is
'For BI tools: sales, refunds and revenue per day (UTC), product, provider and currency, in minor units.';

revoke all on table public.payment_daily_revenue from public, anon, authenticated, service_role;
grant select on table public.payment_daily_revenue to service_role;

create function public.payment_health()
returns jsonb
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return jsonb_build_object(
        'sessions', (
            select jsonb_build_object(
                'pending_over_1h', count(*) filter (where s.status = 'pending' and s.created_at < now() - interval '1 hour'),
                'processing', count(*) filter (where s.status = 'processing'),
                'overdue', count(*) filter (where s.expires_at < now() - interval '2 hours')
            )
            from public.payment_checkout_sessions as s
            where s.status in ('pending', 'processing')
        ),
        'reviews', (
            select jsonb_build_object(
                'open', count(*),
                'paid_but_unfulfilled', count(*) filter (where s.fulfilment_status = 'failed'),
                'oldest_seconds', payments.seconds_since(min(s.created_at))
            )
            from public.payment_checkout_sessions as s
            where s.review_reason is not null
        ),
        'webhooks', (
            select jsonb_build_object(
                'failed', count(*) filter (where e.status = 'failed'),
                'dead', count(*) filter (where e.status = 'dead'),
                'oldest_seconds', payments.seconds_since(min(e.received_at))
            )
            from payments.webhook_events as e
            where e.status <> 'handled'
        ),
        'notifications', (
            select jsonb_build_object(
                'due', count(*), 'oldest_seconds', payments.seconds_since(min(n.due_at)),
                'dead', (select count(*) from payments.notifications as d where d.status = 'dead')
            )
            from payments.notifications as n
            where n.status = 'queued' and n.due_at <= now()
        ),
        'reconcile', (
            select jsonb_build_object('due', count(*), 'oldest_seconds', payments.seconds_since(min(a.reconcile_at)))
            from payments.attempts as a
            where a.reconcile_at <= now()
        ),
        'invoices', (
            select jsonb_build_object('unnumbered', count(*), 'oldest_seconds', payments.seconds_since(min(u.created_at)))
            from payments.unnumbered_invoices as u
        ),
        'heartbeats', (
            select coalesce(jsonb_object_agg(h.name, payments.seconds_since(h.beat_at)), '{}')
            from payments.heartbeats as h
        )
    );
end;
$$;

comment on function public.payment_health() is
'What waits and for how long (seconds): {sessions: {pending_over_1h, processing, overdue}, reviews: {open, '
'paid_but_unfulfilled, oldest_seconds}, webhooks: {failed, dead, oldest_seconds}, notifications: {due, oldest_seconds, '
'dead}, reconcile: {due, oldest_seconds}, invoices: {unnumbered, oldest_seconds}, heartbeats: {worker: seconds}}.';

revoke all on function public.payment_health() from public, anon, authenticated, service_role;
grant execute on function public.payment_health() to service_role;

create view public.payment_open_reviews with (security_invoker = true) as
select
    s.id as session_id,
    s.review_reason,
    s.status,
    s.fulfilment_status,
    s.user_id,
    s.product_id,
    s.provider,
    s.provider_payment_id,
    s.amount,
    s.refunded_amount,
    s.currency,
    s.created_at,
    s.updated_at
from public.payment_checkout_sessions as s
where s.review_reason is not null;

comment on view public.payment_open_reviews is 'For BI tools and operators: sessions that a person must look at.';

revoke all on table public.payment_open_reviews from public, anon, authenticated, service_role;
grant select on table public.payment_open_reviews to service_role;

create function public.payment_report(p_days int default 7)
returns jsonb
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_from timestamptz;
    v_report jsonb;
begin
    perform payments.require_service();
    if p_days is null or p_days not between 1 and 3660 then
        raise exception 'p_days must be 1 to 3660.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Ask for a week: 7.';
    end if;
    v_from := now() - p_days * interval '1 day';
    select jsonb_build_object(
        'totals', jsonb_agg(l.line) filter (where l.section = 'totals') -> 0,
        'by_day', coalesce(jsonb_agg(jsonb_build_object('day', l.name) || l.line order by l.name)
            filter (where l.section = 'by_day'), '[]'),
        'by_product', coalesce(jsonb_agg(jsonb_build_object('product', l.name) || l.line order by l.name)
            filter (where l.section = 'by_product'), '[]'),
        'by_provider', coalesce(jsonb_agg(jsonb_build_object('provider', l.name) || l.line order by l.name)
            filter (where l.section = 'by_provider'), '[]')
    ) into v_report
    from payments.report_lines(v_from) as l;
    return v_report || jsonb_build_object(
        'from', v_from,
        'to', now(),
        'reminders', payments.report_reminders(v_from),
        'coupons', (
            select coalesce(jsonb_object_agg(used.coupon_id, to_jsonb(used) - 'coupon_id'), '{}')
            from (
                select
                    r.coupon_id,
                    count(*) filter (where r.status = 'confirmed') as redeemed,
                    count(*) filter (where r.status = 'reserved') as reserved,
                    count(*) filter (where r.status = 'confirmed' and r.paid_late) as paid_late,
                    count(*) filter (where r.status = 'confirmed' and not r.holds_place) as above_cap
                from payments.coupon_redemptions as r
                where r.session_id >= payments.first_id_at(v_from)
                group by r.coupon_id
            ) as used
        )
    );
end;
$$;

comment on function public.payment_report(int) is
'The sessions made in the last p_days: {from, to, totals, by_day, by_product, by_provider, reminders, coupons}. Each '
'line has created, completed, expired, failed, cancelled, open, conversion_rate and abandonment_rate (0 to 1), revenue '
'and refunds ({currency: minor units}), average_minutes and median_minutes to pay, retries_per_user. Raises PT422 '
'invalid_input.';

revoke all on function public.payment_report(int) from public, anon, authenticated, service_role;
grant execute on function public.payment_report(int) to service_role;

-- One pass over the sessions for all groupings: the totals, and a line per day, product and provider.
create function payments.report_lines(p_from timestamptz)
returns table (section text, name text, line jsonb)
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with sessions as materialized (
        select r.* from payments.report_sessions(p_from) as r
    ),

    counts as (
        select
            s.day, s.product, s.provider, count(*) as created,
            count(s.minutes_to_pay) as completed,
            count(*) filter (where s.status = 'expired') as expired,
            count(*) filter (where s.status = 'failed') as failed,
            count(*) filter (where s.status = 'cancelled') as cancelled,
            count(*) filter (where s.status in ('pending', 'processing')) as open,
            round(avg(s.minutes_to_pay), 2) as average_minutes,
            round((percentile_cont(0.5) within group (order by s.minutes_to_pay))::numeric, 2) as median_minutes,
            round(sum(greatest(s.attempts - 1, 0))::numeric / count(distinct s.user_id), 4) as retries_per_user
        from sessions as s
        group by grouping sets ((s.day), (s.product), (s.provider), ())
    ),

    sums as (
        select
            s.day, s.product, s.provider, s.currency, sum(s.amount) as revenue, sum(s.refunded) as refunds
        from sessions as s
        group by grouping sets ((s.day, s.currency), (s.product, s.currency), (s.provider, s.currency), (s.currency))
    ),

    money as (
        select
            m.day, m.product, m.provider,
            jsonb_object_agg(m.currency, m.revenue) filter (where m.revenue > 0) as revenue,
            jsonb_object_agg(m.currency, m.refunds) filter (where m.refunds > 0) as refunds
        from sums as m
        group by m.day, m.product, m.provider
    )

    select
        case
            when c.day is not null then 'by_day' when c.product is not null then 'by_product'
            when c.provider is not null then 'by_provider' else 'totals'
        end,
        coalesce(c.day, c.product, c.provider),
        to_jsonb(c) - array['day', 'product', 'provider'] || jsonb_build_object(
            'conversion_rate', round(c.completed::numeric / nullif(c.created, 0), 4),
            'abandonment_rate', round((c.expired + c.cancelled)::numeric / nullif(c.created, 0), 4),
            'revenue', coalesce(m.revenue, '{}'),
            'refunds', coalesce(m.refunds, '{}')
        )
    from counts as c
    left join money as m
        on coalesce(c.day, '') = coalesce(m.day, '')
        and coalesce(c.product, '') = coalesce(m.product, '')
        and coalesce(c.provider, '') = coalesce(m.provider, '');
end;
$$;

comment on function payments.report_lines(timestamptz) is
'The lines of payment_report: totals, and by_day, by_product and by_provider.';

revoke all on function payments.report_lines(timestamptz) from public, anon, authenticated, service_role;

-- Like is compared with like: sessions still unpaid when the first reminder was due, with and without one.
create function payments.report_reminders(p_from timestamptz)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_with numeric;
    v_without numeric;
    v_reminded bigint;
begin
    select
        count(*) filter (where s.reminded),
        avg((s.minutes_to_pay is not null)::int) filter (where s.reminded),
        avg((s.minutes_to_pay is not null)::int) filter (where not s.reminded)
    into v_reminded, v_with, v_without
    from payments.report_sessions(p_from) as s
    where s.was_slow;
    return jsonb_build_object(
        'reminded', v_reminded,
        'conversion_with_reminder', round(v_with, 4),
        'conversion_without', round(v_without, 4),
        'uplift', round(v_with - v_without, 4)
    );
end;
$$;

comment on function payments.report_reminders(timestamptz) is
'What reminders brought: {reminded, conversion_with_reminder, conversion_without, uplift}; rates are 0 to 1.';

revoke all on function payments.report_reminders(timestamptz) from public, anon, authenticated, service_role;

create function payments.report_sessions(p_from timestamptz)
returns table (
    day text, product text, provider text, currency text, status text, user_id uuid, attempts int,
    amount bigint, refunded bigint, minutes_to_pay numeric, reminded boolean, was_slow boolean
)
language plpgsql
stable
rows 10000
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        to_char(s.created_at at time zone 'UTC', 'YYYY-MM-DD'), s.product_id, s.provider, s.currency, s.status,
        s.user_id, s.attempts,
        case when s.completed_at is not null then s.amount else 0 end, s.refunded_amount,
        extract(epoch from s.completed_at - s.created_at) / 60,
        reminder.session_id is not null,
        s.created_at + t.reminder_after < coalesce(
            s.completed_at, case when s.status in ('failed', 'expired', 'cancelled') then s.updated_at end, now()
        )
    from public.payment_checkout_sessions as s
    cross join payments.settings as t
    left join (
        select distinct n.session_id
        from payments.notifications as n
        where n.kind = 'reminder' and n.session_id >= payments.first_id_at(p_from) and n.status = 'sent'
    ) as reminder on s.id = reminder.session_id
    where s.id >= payments.first_id_at(p_from);
end;
$$;

comment on function payments.report_sessions(timestamptz) is
'The sessions made since a time, as payment_report counts them. Days are UTC, amounts minor units; was_slow: still '
'unpaid when its first reminder would have been due.';

revoke all on function payments.report_sessions(timestamptz) from public, anon, authenticated, service_role;

-- Names of the jobs are stable, so that scheduling again replaces them. Dynamic SQL, because the schema cron exists
-- only where pg_cron is installed.
create function payments.schedule_jobs()
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schema text := 'cron';
    v_job record;
    v_count int := 0;
begin
    if not exists (select from pg_catalog.pg_extension as e where e.extname = 'pg_cron') then
        return 0;
    end if;
    for v_job in
        select j.name, j.schedule, j.command
        from (values
            ('pgcheckout-expire', '7 * * * *', 'select public.expire_old_checkout_sessions()'),
            ('pgcheckout-remind', '*/15 * * * *', 'select public.enqueue_payment_reminders()'),
            ('pgcheckout-number-invoices', '* * * * *', 'select public.number_payment_invoices()'),
            ('pgcheckout-forget-idempotency-keys', '17 3 * * *', 'select public.cleanup_idempotency_keys()'),
            ('pgcheckout-clean-up', '27 3 * * 0', 'select public.cleanup_completed_checkout_sessions()'),
            ('pgcheckout-check-invariants', '37 3 * * *', 'select payments.assert_invariants()')
        ) as j (name, schedule, command)
    loop
        execute format('select %I.schedule($1, $2, $3)', v_schema) using v_job.name, v_job.schedule, v_job.command;
        v_count := v_count + 1;
    end loop;
    return v_count;
end;
$$;

comment on function payments.schedule_jobs() is
'Registers the periodic jobs with pg_cron and returns how many; 0 where the extension is not installed. Call it as '
'postgres after installing pg_cron.';

revoke all on function payments.schedule_jobs() from public, anon, authenticated, service_role;

-- What began with the functions of before ends first: its rows would be in neither list below.
do $$ begin
    lock table public.payment_checkout_sessions in exclusive mode;
end; $$;

-- Pages that can still be paid join the queue.
update payments.attempts as a
set reconcile_at = now()
where a.reconcile_at is null and a.status in ('open', 'processing') and a.created_at > now() - interval '14 days';

-- Sessions that were paid before there were invoices get theirs, in the order of their payment.
with wanted as (
    select
        s.*,
        p.name as product_name,
        t.invoice_series as series,
        extract(year from now() at time zone 'UTC')::int as year
    from public.payment_checkout_sessions as s
    inner join public.payment_products as p on s.product_id = p.id
    cross join payments.settings as t
    where
        s.completed_at is not null
        and not exists (
            select from public.payment_invoices as i
            where i.session_id = s.id and i.kind = 'invoice'
        )
        and not exists (
            select from payments.unnumbered_invoices as u
            where u.document ->> 'session_id' = s.id::text and u.document ->> 'kind' = 'invoice'
        )
),

counted as (
    insert into payments.invoice_counters as c (series, year, last_number)
    select
        w.series,
        w.year,
        count(*) as number
    from wanted as w
    group by 1, 2
    on conflict (series, year) do update set last_number = c.last_number + excluded.last_number
    returning c.series, c.year, c.last_number
)

insert into public.payment_invoices (
    series, year, number, kind, session_id, user_id, email, product_id, product_name, currency, original_amount,
    discount_amount, amount, provider, provider_payment_id, paid_at, issued_at
)
select
    w.series,
    w.year,
    c.last_number - count(*) over () + row_number() over (order by w.completed_at, w.id) as number,
    'invoice' as kind,
    w.id,
    w.user_id,
    w.email,
    w.product_id,
    w.product_name,
    w.currency,
    w.original_amount,
    w.discount_amount,
    w.amount,
    w.provider,
    w.provider_payment_id,
    w.completed_at,
    now() as issued_at
from wanted as w
inner join counted as c on w.series = c.series and w.year = c.year;
