create table public.payment_prices (
    product_id text not null references public.payment_products (id) on delete cascade,
    currency text not null,
    amount bigint not null,
    is_default boolean not null default false,
    primary key (product_id, currency),
    constraint payment_prices_currency_is_an_iso_code check (currency ~ '^[A-Z]{3}$'),
    constraint payment_prices_amount_is_positive check (amount > 0)
);

comment on table public.payment_prices is 'The price of a product in one currency, in minor units.';
comment on column public.payment_prices.is_default is
'The price used when the buyer names no currency; one per product.';

create unique index payment_prices_one_default_per_product on public.payment_prices (product_id) where is_default;

alter table public.payment_prices enable row level security;
revoke all on table public.payment_prices from public, anon, authenticated, service_role;
grant select on table public.payment_prices to anon, authenticated;
grant select, insert, update, delete on table public.payment_prices to service_role;

create policy payment_prices_are_public_while_their_product_is_active on public.payment_prices
for select to anon, authenticated
using (exists (
    select from public.payment_products as p
    where p.id = payment_prices.product_id and p.active
));
