-- Late money finds its place released, perhaps taken by another buyer. The price was agreed: it is honoured, with a
-- place if there is still one, else above the cap, which payment_report shows.
create function payments.confirm_coupon(p_session public.payment_checkout_sessions, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
    v_redemption payments.coupon_redemptions;
begin
    update payments.coupon_redemptions as r
    set status = 'confirmed', updated_at = p_now
    where r.session_id = p_session.id and r.status = 'reserved';
    if found then
        return;
    end if;
    select c.* into v_coupon from payments.coupons as c where c.id = p_session.coupon_id for no key update;
    select r.* into v_redemption from payments.coupon_redemptions as r where r.session_id = p_session.id;
    if v_redemption.status = 'confirmed' then
        return;
    end if;
    if not v_redemption.holds_place then
        v_coupon := payments.give_back_coupon_places(v_coupon, p_now);
        update payments.coupons as c
        set places_taken = c.places_taken + 1
        where c.id = v_coupon.id and c.places_taken < coalesce(c.max_redemptions, c.places_taken + 1);
        v_redemption.holds_place := found;
    end if;
    update payments.coupon_redemptions as r
    set status = 'confirmed', holds_place = v_redemption.holds_place, paid_late = true, updated_at = p_now
    where r.session_id = p_session.id and r.status = 'released';
end;
$$;

comment on function payments.confirm_coupon(public.payment_checkout_sessions, timestamptz) is
'Makes the redemption of a session that is being paid final.';

revoke all on function payments.confirm_coupon(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;
