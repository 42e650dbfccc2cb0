-- The caller holds the coupon's lock.
create function payments.give_back_coupon_places(p_coupon payments.coupons, p_now timestamptz)
returns payments.coupons
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons := p_coupon;
begin
    if v_coupon.places_taken < coalesce(v_coupon.max_redemptions, v_coupon.places_taken + 1) then
        return v_coupon;
    end if;
    with given_back as (
        update payments.coupon_redemptions as r
        set holds_place = false, updated_at = p_now
        where r.coupon_id = v_coupon.id and r.holds_place and r.status = 'released'
        returning 1
    )

    update payments.coupons as c
    set places_taken = c.places_taken - (select count(*) from given_back)
    where c.id = v_coupon.id
    returning c.* into v_coupon;
    return v_coupon;
end;
$$;

comment on function payments.give_back_coupon_places(payments.coupons, timestamptz) is
'A locked coupon, with the places that were released counted as free when there is no other.';

revoke all on function payments.give_back_coupon_places(payments.coupons, timestamptz)
from public, anon, authenticated, service_role;
