create type payments.offer as (
    product_id text,
    kind text,
    name text,
    terms jsonb,
    currency text,
    original_amount bigint,
    discount_amount bigint,
    amount bigint,
    coupon_id text
);

comment on type payments.offer is 'What a purchase costs now and what it gives. Amounts in minor units.';
