create function payments.refuse_coupon(p_coupon_id text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'Coupon % has been used up.', p_coupon_id
        using errcode = 'PT409', detail = 'coupon_exhausted', hint = 'Leave p_coupon out.';
end;
$$;

comment on function payments.refuse_coupon(text) is 'Raises PT409 coupon_exhausted.';

revoke all on function payments.refuse_coupon(text) from public, anon, authenticated, service_role;
