-- The sessions are read once, and what a line needs is counted from that: a week of a large shop has 100,000 of them.
create function payments.report_lines(p_from timestamptz)
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

revoke all on function payments.report_lines(timestamptz) from public, anon, authenticated, service_role;
