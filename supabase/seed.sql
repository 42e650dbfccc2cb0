-- A small catalogue for local development and the demo. Amounts are in minor units of each currency.
insert into public.payment_products (id, kind, name, description, terms)
values
('credits_100', 'credits', '100 credits', 'Enough for an afternoon.', '{"credits": 100}'),
('credits_500', 'credits', '500 credits', 'Five times the credits for four times the price.', '{"credits": 500}'),
('pro_month', 'subscription', 'Pro, one month', 'Everything, for a month.', '{"tier": "pro", "period": "1 month"}');

insert into public.payment_prices (product_id, currency, amount, is_default)
values
('credits_100', 'USD', 500, true),
('credits_100', 'NGN', 750000, false),
('credits_100', 'UZS', 6000000, false),
('credits_100', 'ILS', 1900, false),
('credits_500', 'USD', 2000, true),
('credits_500', 'NGN', 3000000, false),
('credits_500', 'UZS', 24000000, false),
('credits_500', 'ILS', 7500, false),
('pro_month', 'USD', 1200, true),
('pro_month', 'NGN', 1800000, false),
('pro_month', 'UZS', 14400000, false),
('pro_month', 'ILS', 4500, false);
