create table payments.coupons (
    id text primary key,
    percent_off int,
    product_ids text[],
    valid_from timestamptz not null default now(),
    valid_until timestamptz,
    max_redemptions int,
    max_redemptions_per_user int,
    places_taken int not null default 0,
    created_at timestamptz not null default now(),
    constraint coupons_id_is_an_upper_case_code check (id ~ '^[A-Z0-9][A-Z0-9_-]{0,62}$'),
    constraint coupons_percent_is_1_to_100 check (percent_off between 1 and 100),
    constraint coupons_name_a_product check (
        cardinality(product_ids) > 0 and array_position(product_ids, null) is null
    ),
    constraint coupons_end_after_they_start check (valid_until > valid_from),
    constraint coupons_caps_are_positive check (max_redemptions > 0 and max_redemptions_per_user > 0),
    -- guarantee 7
    constraint coupons_are_never_redeemed_above_their_cap check (
        places_taken >= 0 and places_taken <= max_redemptions
    )
) with (fillfactor = 70);

comment on table payments.coupons is
'Discounts that buyers name as p_coupon, in any case. A percentage, or fixed amounts in payments.coupon_currencies.';
comment on column payments.coupons.percent_off is 'Null for a coupon of fixed amounts.';
comment on column payments.coupons.product_ids is 'Products it is good for; null for all.';
comment on column payments.coupons.max_redemptions is 'Places in all; null for no cap.';
comment on column payments.coupons.places_taken is
'Redemptions that hold a place (payments.coupon_redemptions). Its row lock is the queue of the buyers.';

alter table payments.coupons enable row level security;
revoke all on table payments.coupons from public, anon, authenticated, service_role;
