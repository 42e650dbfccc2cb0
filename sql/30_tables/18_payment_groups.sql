create table public.payment_groups (
    id uuid primary key,
    name text not null,
    created_by uuid not null,
    capacity int not null,
    contribution_product_id text not null references public.payment_products (id),
    join_product_id text references public.payment_products (id),
    cycle interval not null,
    status text not null default 'open',
    created_at timestamptz not null,
    constraint payment_groups_name_is_short check (length(name) between 1 and 200),
    constraint payment_groups_capacity_is_1_to_9999 check (capacity between 1 and 9999),
    constraint payment_groups_cycle_is_positive check (cycle > interval '0'),
    constraint payment_groups_status_is_known check (status in ('open', 'closed'))
);

comment on table public.payment_groups is
'Groups whose members pay the same contribution each cycle, such as rotating savings groups.';
comment on column public.payment_groups.id is 'Also the id of the session that paid for its creation.';
comment on column public.payment_groups.contribution_product_id is 'What a member buys to pay one cycle.';
comment on column public.payment_groups.join_product_id is
'What a new member buys; null when any group_join product will do.';
comment on column public.payment_groups.cycle is 'How often a contribution is due.';
comment on column public.payment_groups.status is 'closed: nobody can join it.';

alter table public.payment_groups enable row level security;
revoke all on table public.payment_groups from public, anon, authenticated, service_role;
grant select on table public.payment_groups to authenticated, service_role;
