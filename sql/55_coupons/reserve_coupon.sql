-- Buyers queue at the coupon's row: the one behind sees the places that the one before took. A transaction never locks
-- two coupons, because a release only marks the redemption: its place is given back by whoever needs one.
create function payments.reserve_coupon(p_session public.payment_checkout_sessions, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
begin
    select c.* into v_coupon from payments.coupons as c where c.id = p_session.coupon_id for no key update;
    v_coupon := payments.give_back_coupon_places(v_coupon, p_now);
    if v_coupon.places_taken >= v_coupon.max_redemptions
        or v_coupon.max_redemptions_per_user <= (
            select count(*)
            from payments.coupon_redemptions as r
            where r.coupon_id = v_coupon.id and r.user_id = p_session.user_id and r.status <> 'released'
        )
    then
        perform payments.refuse_coupon(v_coupon.id);
    end if;
    update payments.coupons as c
    set places_taken = c.places_taken + 1
    where c.id = v_coupon.id;
    insert into payments.coupon_redemptions (
        session_id, coupon_id, user_id, status, holds_place, created_at, updated_at
    )
    values (p_session.id, v_coupon.id, p_session.user_id, 'reserved', true, p_now, p_now);
end;
$$;

comment on function payments.reserve_coupon(public.payment_checkout_sessions, timestamptz) is
'Takes a place of the session''s coupon for it. Raises PT409 coupon_exhausted.';

revoke all on function payments.reserve_coupon(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;
