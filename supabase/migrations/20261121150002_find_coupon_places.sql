-- Purpose: who is refused a used-up coupon reads only the places that can be given back, not all that are held.
-- Locks:   ACCESS EXCLUSIVE on coupon_redemptions while a small index is built; SHARE ROW EXCLUSIVE on
--          payment_checkout_sessions for a moment.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
-- squawk-ignore-file require-concurrent-index-creation, require-concurrent-index-deletion
set lock_timeout = '5s';

drop index payments.coupon_redemptions_to_give_back;
create index coupon_redemptions_to_give_back on payments.coupon_redemptions (coupon_id)
where holds_place and status = 'released';

create function payments.release_deleted_coupons()
returns trigger
language plpgsql
security definer -- whoever deletes a user holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_sessions uuid[] := array(
        select d.id from deleted as d where d.coupon_id is not null and d.status in ('pending', 'processing')
    );
begin
    if cardinality(v_sessions) > 0 then
        update payments.coupon_redemptions as r
        set status = 'released', updated_at = now()
        where r.session_id = any(v_sessions) and r.status = 'reserved';
    end if;
    return null;
end;
$$;

comment on function payments.release_deleted_coupons() is
'Statement trigger of checkout sessions: gives up the coupon places of open sessions that went with their user.';

revoke all on function payments.release_deleted_coupons() from public, anon, authenticated, service_role;

create trigger release_deleted_coupons
after delete on public.payment_checkout_sessions
referencing old table as deleted
for each statement
execute function payments.release_deleted_coupons();

-- those whose session has gone already
update payments.coupon_redemptions as r
set status = 'released', updated_at = now()
where
    r.status = 'reserved'
    and not exists (
        select from public.payment_checkout_sessions as s
        where s.id = r.session_id
    );

create or replace function payments.give_back_coupon_places(p_coupon payments.coupons, p_now timestamptz)
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

create or replace function payments.check_coupon_place(p_coupon_id text, p_user_id uuid)
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
