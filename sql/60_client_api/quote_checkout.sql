create function public.quote_checkout(p_plan text, p_currency text default null, p_coupon text default null)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_offer payments.offer := payments.make_offer(p_plan, p_currency, p_coupon);
begin
    if v_offer.coupon_id is not null then
        perform payments.check_coupon_place(v_offer.coupon_id, auth.uid());
    end if;
    return jsonb_build_object(
        'plan', v_offer.product_id,
        'name', v_offer.name,
        'terms', v_offer.terms,
        'currency', v_offer.currency,
        'original_amount', v_offer.original_amount,
        'discount_amount', v_offer.discount_amount,
        'amount', v_offer.amount,
        'coupon', v_offer.coupon_id
    );
end;
$$;

comment on function public.quote_checkout(text, text, text) is
'What a purchase would cost, in minor units, without creating anything. Raises PT404 product_unknown, PT422 '
'currency_unavailable, coupon_unknown, coupon_expired, coupon_not_applicable, PT409 coupon_exhausted.';

revoke all on function public.quote_checkout(text, text, text) from public, anon, authenticated, service_role;
grant execute on function public.quote_checkout(text, text, text) to authenticated, service_role;
