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

revoke all on function public.payment_report(int) from public, anon, authenticated, service_role;
grant execute on function public.payment_report(int) to service_role;
