create function payments.release_coupon(p_session_id uuid, p_from text, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update payments.coupon_redemptions as r
    set status = 'released', updated_at = p_now
    where r.session_id = p_session_id and r.status = p_from;
end;
$$;

comment on function payments.release_coupon(uuid, text, timestamptz) is
'Gives up the coupon place of a session that ended unpaid (from reserved) or was refunded (from confirmed).';

revoke all on function payments.release_coupon(uuid, text, timestamptz) from public, anon, authenticated, service_role;
