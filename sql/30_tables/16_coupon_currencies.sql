create table payments.coupon_currencies (
    coupon_id text not null references payments.coupons (id) on delete cascade,
    currency text not null,
    amount_off bigint,
    minimum_amount bigint,
    primary key (coupon_id, currency),
    constraint coupon_currencies_currency_is_an_iso_code check (currency ~ '^[A-Z]{3}$'),
    constraint coupon_currencies_amounts_are_positive check (amount_off > 0 and minimum_amount > 0)
);

comment on table payments.coupon_currencies is 'What a coupon means in one currency, in minor units.';
comment on column payments.coupon_currencies.amount_off is
'What a coupon of fixed amounts takes off; without it, the coupon cannot be used in this currency.';
comment on column payments.coupon_currencies.minimum_amount is 'Price from which the coupon can be used.';

alter table payments.coupon_currencies enable row level security;
revoke all on table payments.coupon_currencies from public, anon, authenticated, service_role;
