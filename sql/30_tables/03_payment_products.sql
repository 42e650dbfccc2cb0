create table public.payment_products (
    id text primary key,
    kind text not null references payments.fulfilment_handlers (kind),
    name text not null,
    description text not null default '',
    terms jsonb not null default '{}',
    active boolean not null default true,
    created_at timestamptz not null default now(),
    constraint payment_products_id_is_a_slug check (id ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    constraint payment_products_name_is_not_empty check (length(name) between 1 and 200),
    constraint payment_products_terms_are_an_object check (jsonb_typeof(terms) = 'object'),
    constraint payment_products_credits_are_a_positive_integer check (
        kind <> 'credits' or coalesce(terms ->> 'credits', '') ~ '^[1-9][0-9]{0,14}$'
    ),
    constraint payment_products_subscription_names_tier_and_period check (
        kind <> 'subscription' or (
            coalesce(terms ->> 'tier', '') <> ''
            and coalesce(terms ->> 'period', '') ~ '^[1-9][0-9]{0,3} (day|week|month|year)s?$'
        )
    ),
    constraint payment_products_groups_have_capacity_contribution_and_cycle check (
        kind <> 'group_create' or (
            coalesce(terms ->> 'capacity', '') ~ '^[1-9][0-9]{0,3}$'
            and coalesce(terms ->> 'contribution_product', '') <> ''
            and coalesce(terms ->> 'cycle', '') ~ '^[1-9][0-9]{0,3} (day|week|month|year)s?$'
        )
    )
);

comment on table public.payment_products is 'What can be bought. The id is what clients send as p_plan.';
comment on column public.payment_products.kind is 'How a paid session is fulfilled (payments.fulfilment_handlers).';
comment on column public.payment_products.terms is
'What the buyer gets: {"credits": 100}, {"tier": "pro", "period": "1 month"}, or {"capacity": 12, '
'"contribution_product": "…", "cycle": "1 month", "join_product": "…"} for group_create. Copied into each session, so '
'that a later change of the product does not change what was sold.';

alter table public.payment_products enable row level security;
revoke all on table public.payment_products from public, anon, authenticated, service_role;
grant select on table public.payment_products to anon, authenticated;
grant select, insert, update, delete on table public.payment_products to service_role;

create policy payment_products_are_public_while_active on public.payment_products
for select to anon, authenticated
using (active);
