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
