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
