create function public.get_or_create_checkout_session(
    p_plan text,
    p_user_id uuid default null,
    p_email text default null,
    p_price numeric default null,
    p_provider text default 'stripe',
    p_currency text default null,
    p_coupon text default null,
    p_subject text default null,
    p_idempotency_key text default null,
    p_metadata jsonb default '{}'
)
returns uuid
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    return payments.get_or_create_checkout_session(
        p_plan, p_user_id, p_email, p_price, p_provider, p_currency, p_coupon, p_subject, p_idempotency_key, p_metadata
    );
end;
$$;

comment on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) is
'The open checkout session for this purchase if there is one, else a new one; returns its id. The price comes from '
'payment_prices: p_price (major units) is only checked. A coupon that takes the whole price completes the session at '
'once. Raises PT404 product_unknown, group_unknown, PT422 currency_unavailable, coupon_unknown, coupon_expired, '
'coupon_not_applicable, price_mismatch, provider_unknown, invalid_input, group_product_mismatch, user_required, '
'user_unknown, PT409 idempotency_conflict, coupon_exhausted, group_full, already_member, not_a_member, '
'contribution_paid, PT429 too_many_requests, PT401 not_signed_in, PT403 not_your_session, PT503 try_again.';

revoke all on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) from public, anon, authenticated, service_role;
grant execute on function public.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) to authenticated, service_role;
