create function payments.make_offer(p_plan text, p_currency text, p_coupon text)
returns payments.offer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_product public.payment_products;
    v_price public.payment_prices;
    v_coupon_id text;
    v_discount bigint := 0;
begin
    select p.* into v_product from public.payment_products as p where p.id = p_plan and p.active;
    if not found then
        raise exception 'There is no product %.', coalesce(quote_literal(left(p_plan, 64)), 'without a name')
            using errcode = 'PT404', detail = 'product_unknown', hint = 'p_plan is the id of an active payment_products row.';
    end if;
    select pr.* into v_price
    from public.payment_prices as pr
    where pr.product_id = p_plan and case when p_currency is null then pr.is_default else pr.currency = upper(p_currency) end;
    if not found then
        raise exception 'Product % has no price in %.', p_plan, coalesce(left(p_currency, 64), 'a default currency')
            using errcode = 'PT422', detail = 'currency_unavailable', hint = format(
                'p_currency can be one of: %s.',
                (select string_agg(pr.currency, ', ' order by pr.currency)
                 from public.payment_prices as pr where pr.product_id = p_plan));
    end if;
    if p_coupon is not null then
        select c.coupon_id, c.discount_amount into v_coupon_id, v_discount
        from payments.apply_coupon(p_coupon, v_price, now()) as c;
    end if;
    return (
        v_product.id, v_product.kind, v_product.name, v_product.terms,
        v_price.currency, v_price.amount, v_discount, v_price.amount - v_discount, v_coupon_id
    )::payments.offer;
end;
$$;

comment on function payments.make_offer(text, text, text) is
'The current offer for a product. Raises PT404 product_unknown, PT422 currency_unavailable, coupon_unknown, '
'coupon_expired, coupon_not_applicable.';

revoke all on function payments.make_offer(text, text, text) from public, anon, authenticated, service_role;
grant execute on function payments.make_offer(text, text, text) to authenticated, service_role;
