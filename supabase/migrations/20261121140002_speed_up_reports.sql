-- Purpose: payment_report reads its sessions once and is more than twice as fast; expiry finds each session once.
-- Locks:   none.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
-- squawk-ignore-file ban-drop-function
set lock_timeout = '5s';

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
            sum(greatest(s.attempts - 1, 0)) as retries, sum(s.minutes) as minutes,
            sum(s.amount) filter (where s.paid) as revenue, sum(s.refunded) as refunds
        from sessions as s
        group by s.day, s.product_id, s.provider, s.currency, s.status, s.paid, s.reminded, s.was_slow
    ),

    counts as (
        select
            c.day, c.product_id, c.provider, coalesce(sum(c.sessions), 0) as created,
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
            'completed', c.completed,
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

drop function payments.report_reminders(timestamptz);
drop function payments.report_sessions(timestamptz);

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
        -- where the locked row is, so that it need not be looked up again
        select s.ctid as place, s.status
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
        where s.ctid = due.place
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
