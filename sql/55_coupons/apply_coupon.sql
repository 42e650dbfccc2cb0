-- Whether the coupon can be used here and now, and what it takes off. Caps are another matter: an open session of the
-- buyer may hold a place already (check_coupon_place, reserve_coupon).
create function payments.apply_coupon(
    p_coupon text,
    p_price public.payment_prices,
    p_now timestamptz,
    out coupon_id text,
    out discount_amount bigint
)
language plpgsql
stable
security definer -- quote_checkout runs as the user, who may not list coupons
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
    v_terms payments.coupon_currencies;
begin
    select c.* into v_coupon from payments.coupons as c where c.id = upper(p_coupon);
    if not found then
        raise exception 'There is no coupon %.', quote_literal(left(p_coupon, 64))
            using errcode = 'PT422', detail = 'coupon_unknown', hint = 'Check the spelling, or leave p_coupon out.';
    end if;
    if v_coupon.valid_until <= p_now then
        raise exception 'Coupon % has expired.', v_coupon.id
            using errcode = 'PT422', detail = 'coupon_expired', hint = 'Leave p_coupon out.';
    end if;
    select t.* into v_terms
    from payments.coupon_currencies as t
    where t.coupon_id = v_coupon.id and t.currency = p_price.currency;
    if v_coupon.valid_from > p_now
        or p_price.product_id <> all(v_coupon.product_ids)
        or p_price.amount < v_terms.minimum_amount
        or coalesce(v_coupon.percent_off, v_terms.amount_off) is null
    then
        raise exception 'Coupon % cannot be used: %.', v_coupon.id, case
            when v_coupon.valid_from > p_now then format('it is valid from %s', v_coupon.valid_from)
            when p_price.product_id <> all(v_coupon.product_ids) then format('it is not for %s', p_price.product_id)
            when p_price.amount < v_terms.minimum_amount
                then format('it needs a price of at least %s minor units', v_terms.minimum_amount)
            else format('it has no discount in %s', p_price.currency)
        end
            using errcode = 'PT422', detail = 'coupon_not_applicable', hint = 'Leave p_coupon out, or buy what it is for.';
    end if;
    coupon_id := v_coupon.id;
    discount_amount := case
        when v_coupon.percent_off is null then least(v_terms.amount_off, p_price.amount)
        -- rounded down to whole minor units; numeric, because large prices times 100 leave bigint
        else div(p_price.amount::numeric * v_coupon.percent_off, 100)
    end;
end;
$$;

comment on function payments.apply_coupon(text, public.payment_prices, timestamptz) is
'The coupon''s id and its discount on a price, in minor units. Raises PT422 coupon_unknown, coupon_expired, '
'coupon_not_applicable.';

revoke all on function payments.apply_coupon(text, public.payment_prices, timestamptz)
from public, anon, authenticated, service_role;
grant execute on function payments.apply_coupon(text, public.payment_prices, timestamptz)
to authenticated, service_role;
