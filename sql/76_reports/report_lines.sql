-- A week of a large shop has 100,000 sessions. They are read once, into cells of what looks alike to the report, whose
-- buyers and minutes are kept as arrays; what follows handles cells, or bare ids and minutes.
create function payments.report_lines(p_from timestamptz)
returns table (section text, name text, line jsonb)
language plpgsql
stable
rows 50
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan -- a plan for any p_from would read the table from end to end
set jit = off -- compiling takes longer than the report
set enable_sort = off -- the planner expects as many cells as sessions, and would sort them
set enable_nestloop = off -- and expects to find hardly a cell in a place
set work_mem = '64MB' -- a week fits, and no figure waits for a temporary file
as $$
declare
    v_first_id uuid := payments.first_id_at(p_from);
    v_reminder_after interval := (select t.reminder_after from payments.settings as t);
begin
    return query
    with cells as materialized (
        select
            s.day, s.product_id, s.provider, s.currency, s.reminded, count(*) as sessions,
            count(*) filter (where s.attempts > 0 or s.completed_at is not null) as opened,
            count(s.completed_at) as paid, count(s.fulfilment) as fulfilled,
            count(*) filter (where s.status = 'expired') as expired,
            count(*) filter (where s.status = 'failed') as failed,
            count(*) filter (where s.status = 'cancelled') as cancelled,
            count(*) filter (where s.status in ('pending', 'processing')) as open,
            sum(greatest(s.attempts - 1, 0)) as retries,
            sum(s.amount) filter (where s.completed_at is not null) as revenue, sum(s.refunded_amount) as refunds,
            sum(s.minutes) as minutes, array_agg(s.minutes) filter (where s.completed_at is not null) as all_minutes,
            array_agg(s.user_id) as user_ids
        from (
            select
                r.*, date_bin('1 day', r.created_at, 'epoch') as day,
                date_part('epoch', r.completed_at - r.created_at) / 60 as minutes,
                -- null unless it was still unpaid when its first reminder would have been due
                case
                    when r.created_at + v_reminder_after < coalesce(
                        r.completed_at, case when r.status in ('failed', 'expired', 'cancelled') then r.updated_at end,
                        now()
                    ) then r.id in (
                        select n.session_id
                        from payments.notifications as n
                        where n.kind = 'reminder' and n.session_id >= v_first_id and n.status = 'sent'
                    )
                end as reminded
            from public.payment_checkout_sessions as r
            where r.id >= v_first_id
        ) as s
        group by s.day, s.product_id, s.provider, s.currency, s.reminded
    ),

    places as materialized (
        select row_number() over () as place, d.day, d.product_id, d.provider
        from (select distinct c.day, c.product_id, c.provider from cells as c) as d
    ),

    placed_cells as not materialized (
        select p.place, c.*
        from cells as c
        inner join places as p on c.day = p.day and c.product_id = p.product_id and c.provider = p.provider
    ),

    counts as (
        select
            c.day, c.product_id, c.provider, coalesce(sum(c.sessions), 0) as created,
            coalesce(sum(c.opened), 0) as opened, coalesce(sum(c.fulfilled), 0) as fulfilled,
            coalesce(sum(c.paid), 0) as completed, coalesce(sum(c.expired), 0) as expired,
            coalesce(sum(c.failed), 0) as failed, coalesce(sum(c.cancelled), 0) as cancelled,
            coalesce(sum(c.open), 0) as open, sum(c.retries) as retries, sum(c.minutes) as minutes, array_agg(c.place) as places
        from placed_cells as c
        group by grouping sets ((c.day), (c.product_id), (c.provider), ())
    ),

    -- Lines of the same places share what takes long to find: in a shop with one provider, its line and the totals.
    lines as materialized (
        select c.*, dense_rank() over (order by c.places) as shared from counts as c
    ),

    members as materialized (
        select distinct l.shared, m.place from lines as l cross join unnest(l.places) as m (place)
    ),

    times as (
        select t.shared, percentile_cont(0.5) within group (order by t.minutes) as median
        from (
            select m.shared, unnest(c.all_minutes) as minutes
            from placed_cells as c
            inner join members as m on c.place = m.place
        ) as t
        group by t.shared
    ),

    buyers as (
        select b.shared, count(*) as buyers
        from (
            select distinct m.shared, u.user_id
            from (select distinct c.place, unnest(c.user_ids) as user_id from placed_cells as c) as u
            inner join members as m on u.place = m.place
        ) as b
        group by b.shared
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
    from lines as c
    left join times as t on c.shared = t.shared
    left join buyers as b on c.shared = b.shared
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
            sum(c.paid) filter (where c.reminded) / sum(c.sessions) filter (where c.reminded) as with_reminder,
            sum(c.paid) filter (where not c.reminded) / sum(c.sessions) filter (where not c.reminded) as without
        from cells as c
    ) as r;
end;
$$;

comment on function payments.report_lines(timestamptz) is
'The lines of payment_report about sessions made since a time: totals, by_day, by_product, by_provider and reminders. '
'Days are UTC, amounts minor units, rates 0 to 1.';

revoke all on function payments.report_lines(timestamptz) from public, anon, authenticated, service_role;
