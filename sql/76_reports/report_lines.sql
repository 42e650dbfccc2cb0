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
