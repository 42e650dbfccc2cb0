-- Purpose: operators close reviews and dead webhooks, send letters again, and leave notes; reports count pages opened
--          and purchases fulfilled.
-- Locks:   none that a purchase waits for: functions only.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

create function payments.check_note(p_note text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(p_note, '') !~ '\S' or length(p_note) > 500 or p_note ~ '[[:cntrl:]]' then
        raise exception 'p_note must be one line of 1 to 500 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Say who did what, and why.';
    end if;
end;
$$;

comment on function payments.check_note(text) is 'Raises PT422 invalid_input.';

revoke all on function payments.check_note(text) from public, anon, authenticated, service_role;

create function public.add_session_note(p_session_id uuid, p_note text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    perform payments.check_note(p_note);
    v_session := payments.session_by_id(p_session_id);
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin', 'note', null, now(), p_note
    );
end;
$$;

comment on function public.add_session_note(uuid, text) is
'Writes into a session''s audit trail what an operator did or knows: one line of 1 to 500 characters. Raises PT404 '
'session_not_found, PT422 invalid_input.';

revoke all on function public.add_session_note(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.add_session_note(uuid, text) to service_role;

create function public.close_review(p_session_id uuid, p_note text, p_reasons text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    perform payments.check_note(p_note);
    v_session := payments.lock_session(p_session_id);
    -- nobody dismisses what they have not seen
    if v_session.review_reason is null or v_session.review_reason <> coalesce(p_reasons, v_session.review_reason) then
        raise exception 'The review is not the one that was looked at: now it is %.',
            coalesce(v_session.review_reason, 'closed')
            using errcode = 'PT409', detail = 'review_changed', hint = 'Read the session again.';
    end if;
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin', 'reviewed', null, now(),
        v_session.review_reason || ': ' || p_note
    );
    update public.payment_checkout_sessions as s
    set review_reason = null, updated_at = now()
    where s.id = p_session_id;
end;
$$;

comment on function public.close_review(uuid, text, text) is
'A person has looked at a session and nothing is left to do: closes its review, and keeps the reasons with the note (1 '
'to 500 characters) in the audit trail. p_reasons: the review_reason that was looked at; another one is not closed. '
'Raises PT404 session_not_found, PT409 review_changed, PT422 invalid_input.';

revoke all on function public.close_review(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.close_review(uuid, text, text) to service_role;

create function public.close_webhook_failure(p_provider text, p_event_id text, p_note text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_note(p_note);
    -- only what nobody sends again: a later delivery of it would be a duplicate
    update payments.webhook_events as e
    set status = 'handled', handled_at = now(), payload = '{}',
        error = left(coalesce(e.error, '') || ': ' || p_note, 700)
    where e.provider = p_provider and e.event_id = p_event_id and e.status = 'dead';
    if not found then
        raise exception 'No dead webhook of % has this id.', quote_literal(left(p_provider, 64))
            using errcode = 'PT404', detail = 'dead_letter_unknown', hint = 'list_webhook_failures shows those that wait.';
    end if;
end;
$$;

comment on function public.close_webhook_failure(text, text, text) is
'A person has looked at a dead webhook and nothing is left to do: it waits no more, its payload goes, and the note (1 '
'to 500 characters) stays behind its reason. Raises PT404 dead_letter_unknown, PT422 invalid_input.';

revoke all on function public.close_webhook_failure(text, text, text) from public, anon, authenticated, service_role;
grant execute on function public.close_webhook_failure(text, text, text) to service_role;

create function public.list_dead_notifications(p_limit int default 50)
returns table (
    id bigint, session_id uuid, kind text, occurrence text, email text, error text, tries int, finished_at timestamptz
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
    select n.id, n.session_id, n.kind, n.occurrence, n.email, n.error, n.tries, n.finished_at
    from payments.notifications as n
    where n.status = 'dead'
    order by n.id
    limit p_limit;
end;
$$;

comment on function public.list_dead_notifications(int) is
'Letters that were given up, oldest first: {id, session_id, kind, occurrence, email (null: the operator), error, '
'tries, finished_at}. Raises PT422 invalid_input.';

revoke all on function public.list_dead_notifications(int) from public, anon, authenticated, service_role;
grant execute on function public.list_dead_notifications(int) to service_role;

create function public.retry_notification(p_id bigint)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.notifications as n
    set status = 'queued', tries = 0, due_at = now(), error = null, finished_at = null
    where n.id = p_id and n.status = 'dead';
    if not found then
        raise exception 'No letter that was given up has this id.'
            using errcode = 'PT404', detail = 'dead_letter_unknown', hint = 'See list_dead_notifications.';
    end if;
end;
$$;

comment on function public.retry_notification(bigint) is
'Queues a letter again that was given up, with all its tries. Raises PT404 dead_letter_unknown.';

revoke all on function public.retry_notification(bigint) from public, anon, authenticated, service_role;
grant execute on function public.retry_notification(bigint) to service_role;

create function payments.was_reviewed(p_session_id uuid, p_reason text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from payments.session_events as e
        where e.session_id = p_session_id
            and e.reason = 'reviewed'
            and p_reason = any(string_to_array(split_part(e.detail, ': ', 1), ', '))
    );
end;
$$;

comment on function payments.was_reviewed(uuid, text) is
'Whether a person has closed a review of the session that had this reason, and so decided that it may stay as it is.';

revoke all on function payments.was_reviewed(uuid, text) from public, anon, authenticated, service_role;

create or replace function payments.broken_session_rules()
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
        and not payments.was_reviewed(s.id, 'amount_mismatch')
        and not payments.was_reviewed(s.id, 'currency_mismatch')
    union all
    select 'money_without_goods_is_in_review', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.fulfilment_status in ('none', 'failed') and s.review_reason is null
        and not payments.was_reviewed(s.id, 'fulfilment_failed')
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

create or replace function payments.broken_refund_rules()
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
        and not payments.was_reviewed(s.id, 'reversal_failed')
    union all
    select 'documents_add_up_to_what_was_kept', s.id::text, format('%s kept', s.amount - s.refunded_amount)
    from public.payment_checkout_sessions as s
    left join ( -- there may be many when numbering has stopped, and no index finds them by session
        select u.document ->> 'session_id' as session_id, sum((u.document ->> 'amount')::bigint) as amount
        from payments.unnumbered_invoices as u
        group by 1
    ) as unnumbered on s.id::text = unnumbered.session_id
    where s.completed_at is not null and s.amount - s.refunded_amount <> coalesce(unnumbered.amount, 0) + (
        select coalesce(sum(i.amount), 0)
        from public.payment_invoices as i
        where i.session_id = s.id
    )
    union all
    select 'document_numbers_have_no_gaps', i.series || '-' || i.year, format('%s documents, last %s', count(*), max(i.number))
    from public.payment_invoices as i
    -- the series that are numbered here: a user who was moved brings documents of another database's along
    inner join payments.invoice_counters as c on i.series = c.series and i.year = c.year
    group by i.series, i.year
    having count(*) <> max(i.number) or min(i.number) <> 1;
end;
$$;

comment on function payments.broken_refund_rules() is
'Rules about refunds and documents that do not hold.';

-- The sessions are read once, and what a line needs is counted from that: a week of a large shop has 100,000 of them.
create or replace function payments.report_lines(p_from timestamptz)
returns table (section text, name text, line jsonb)
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan -- a plan for any p_from would read the table from end to end
set jit = off -- compiling takes longer than the report
set work_mem = '64MB' -- a week fits, and no figure waits for a temporary file
as $$
begin
    return query
    with sessions as materialized (
        select
            date_bin('1 day', s.created_at, 'epoch') as day, s.product_id, s.provider, s.currency, s.status, s.user_id,
            s.attempts, s.amount, s.refunded_amount as refunded, s.completed_at is not null as paid,
            s.attempts > 0 or s.completed_at is not null as opened, s.fulfilment is not null as fulfilled,
            date_part('epoch', s.completed_at - s.created_at) / 60 as minutes,
            reminder.session_id is not null as reminded,
            -- still unpaid when its first reminder would have been due
            s.created_at + t.reminder_after < coalesce(
                s.completed_at, case when s.status in ('failed', 'expired', 'cancelled') then s.updated_at end, now()
            ) as was_slow
        from public.payment_checkout_sessions as s
        cross join payments.settings as t
        left join (
            select distinct n.session_id
            from payments.notifications as n
            where n.kind = 'reminder' and n.session_id >= payments.first_id_at(p_from) and n.status = 'sent'
        ) as reminder on s.id = reminder.session_id
        where s.id >= payments.first_id_at(p_from)
    ),

    cells as (
        select
            s.day, s.product_id, s.provider, s.currency, s.status, s.paid, s.reminded, s.was_slow, count(*) as sessions,
            count(*) filter (where s.opened) as opened, count(*) filter (where s.fulfilled) as fulfilled,
            sum(greatest(s.attempts - 1, 0)) as retries, sum(s.minutes) as minutes,
            sum(s.amount) filter (where s.paid) as revenue, sum(s.refunded) as refunds
        from sessions as s
        group by s.day, s.product_id, s.provider, s.currency, s.status, s.paid, s.reminded, s.was_slow
    ),

    counts as (
        select
            c.day, c.product_id, c.provider, coalesce(sum(c.sessions), 0) as created,
            coalesce(sum(c.opened), 0) as opened, coalesce(sum(c.fulfilled), 0) as fulfilled,
            coalesce(sum(c.sessions) filter (where c.paid), 0) as completed,
            coalesce(sum(c.sessions) filter (where c.status = 'expired'), 0) as expired,
            coalesce(sum(c.sessions) filter (where c.status = 'failed'), 0) as failed,
            coalesce(sum(c.sessions) filter (where c.status = 'cancelled'), 0) as cancelled,
            coalesce(sum(c.sessions) filter (where c.status in ('pending', 'processing')), 0) as open,
            sum(c.retries) as retries, sum(c.minutes) as minutes
        from cells as c
        group by grouping sets ((c.day), (c.product_id), (c.provider), ())
    ),

    times as (
        select s.day, s.product_id, s.provider, percentile_cont(0.5) within group (order by s.minutes) as median
        from sessions as s
        where s.paid
        group by grouping sets ((s.day), (s.product_id), (s.provider), ())
    ),

    buyers as (
        select b.day, b.product_id, b.provider, count(*) as buyers
        from (
            select s.day, s.product_id, s.provider, s.user_id
            from (select distinct d.day, d.product_id, d.provider, d.user_id from sessions as d) as s
            group by grouping sets (
                (s.day, s.user_id), (s.product_id, s.user_id), (s.provider, s.user_id), (s.user_id)
            )
        ) as b
        group by b.day, b.product_id, b.provider
    ),

    sums as (
        select c.day, c.product_id, c.provider, c.currency, sum(c.revenue) as revenue, sum(c.refunds) as refunds
        from cells as c
        group by grouping sets (
            (c.day, c.currency), (c.product_id, c.currency), (c.provider, c.currency), (c.currency)
        )
    ),

    money as (
        select
            m.day, m.product_id, m.provider,
            jsonb_object_agg(m.currency, m.revenue) filter (where m.revenue > 0) as revenue,
            jsonb_object_agg(m.currency, m.refunds) filter (where m.refunds > 0) as refunds
        from sums as m
        group by m.day, m.product_id, m.provider
    )

    select
        case
            when c.day is not null then 'by_day' when c.product_id is not null then 'by_product'
            when c.provider is not null then 'by_provider' else 'totals'
        end,
        coalesce(to_char(c.day at time zone 'UTC', 'YYYY-MM-DD'), c.product_id, c.provider),
        jsonb_build_object(
            'created', c.created,
            'opened', c.opened,
            'completed', c.completed,
            'fulfilled', c.fulfilled,
            'expired', c.expired,
            'failed', c.failed,
            'cancelled', c.cancelled,
            'open', c.open,
            'conversion_rate', round(c.completed / nullif(c.created, 0), 4),
            'abandonment_rate', round((c.expired + c.cancelled) / nullif(c.created, 0), 4),
            'revenue', coalesce(m.revenue, '{}'),
            'refunds', coalesce(m.refunds, '{}'),
            'average_minutes', round(c.minutes::numeric / nullif(c.completed, 0), 2),
            'median_minutes', round(t.median::numeric, 2),
            'retries_per_user', round(c.retries::numeric / b.buyers, 4)
        )
    from counts as c
    left join times as t
        on coalesce(c.day, '-infinity') = coalesce(t.day, '-infinity')
        and coalesce(c.product_id, '') = coalesce(t.product_id, '')
        and coalesce(c.provider, '') = coalesce(t.provider, '')
    left join buyers as b
        on coalesce(c.day, '-infinity') = coalesce(b.day, '-infinity')
        and coalesce(c.product_id, '') = coalesce(b.product_id, '')
        and coalesce(c.provider, '') = coalesce(b.provider, '')
    left join money as m
        on coalesce(c.day, '-infinity') = coalesce(m.day, '-infinity')
        and coalesce(c.product_id, '') = coalesce(m.product_id, '')
        and coalesce(c.provider, '') = coalesce(m.provider, '')
    union all
    -- like is compared with like: sessions still unpaid when the first reminder was due, with and without one
    select 'reminders', null, jsonb_build_object(
        'reminded', r.reminded,
        'conversion_with_reminder', round(r.with_reminder, 4),
        'conversion_without', round(r.without, 4),
        'uplift', round(r.with_reminder - r.without, 4)
    )
    from (
        select
            coalesce(sum(c.sessions) filter (where c.reminded), 0) as reminded,
            sum(c.sessions * c.paid::int) filter (where c.reminded) / sum(c.sessions) filter (where c.reminded)
                as with_reminder,
            sum(c.sessions * c.paid::int) filter (where not c.reminded) / sum(c.sessions) filter (where not c.reminded)
                as without
        from cells as c
        where c.was_slow
    ) as r;
end;
$$;

comment on function payments.report_lines(timestamptz) is
'The lines of payment_report about sessions made since a time: totals, by_day, by_product, by_provider and reminders. '
'Days are UTC, amounts minor units, rates 0 to 1.';

create or replace function public.payment_report(p_days int default 7)
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
            filter (where l.section = 'by_provider'), '[]'),
        'reminders', jsonb_agg(l.line) filter (where l.section = 'reminders') -> 0
    ) into v_report
    from payments.report_lines(v_from) as l;
    return v_report || jsonb_build_object(
        'from', v_from,
        'to', now(),
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
'line has created, opened (a payment page), completed (paid), fulfilled, expired, failed, cancelled, open, '
'conversion_rate and abandonment_rate (0 to 1), revenue and refunds ({currency: minor units}), average_minutes and '
'median_minutes to pay, retries_per_user. Raises PT422 invalid_input.';
