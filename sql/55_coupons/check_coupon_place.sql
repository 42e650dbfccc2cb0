create function payments.check_coupon_place(p_coupon_id text, p_user_id uuid)
returns void
language plpgsql
stable
security definer -- quote_checkout runs as the user, who may not read redemptions
set search_path = pg_catalog, pg_temp
as $$
declare
    v_coupon payments.coupons;
    v_free int;
    v_used int;
    v_holding boolean;
begin
    select c.* into v_coupon from payments.coupons as c where c.id = p_coupon_id;
    v_free := v_coupon.max_redemptions - v_coupon.places_taken;
    if v_free <= 0 then
        select v_free + count(*) into v_free
        from payments.coupon_redemptions as r
        where r.coupon_id = p_coupon_id and r.holds_place and r.status = 'released';
    end if;
    select count(*), coalesce(bool_or(r.status = 'reserved'), false) into v_used, v_holding
    from payments.coupon_redemptions as r
    where r.coupon_id = p_coupon_id and r.user_id = p_user_id and r.status <> 'released';
    -- a place that the user holds for an open session is the user's to use
    if not v_holding and (v_free <= 0 or v_used >= v_coupon.max_redemptions_per_user) then
        perform payments.refuse_coupon(p_coupon_id);
    end if;
end;
$$;

comment on function payments.check_coupon_place(text, uuid) is
'Looks for a place without taking it. Raises PT409 coupon_exhausted.';

revoke all on function payments.check_coupon_place(text, uuid) from public, anon, authenticated, service_role;
grant execute on function payments.check_coupon_place(text, uuid) to authenticated, service_role;
