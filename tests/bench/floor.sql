-- What any checkout costs at least: one row, its key and six ordinary indexes.
create schema floor;

create table floor.sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    product_id text not null,
    status text not null default 'pending',
    provider text not null default 'stripe',
    amount bigint not null,
    currency text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null default now() + interval '1 day'
);

create index on floor.sessions (user_id);
create index on floor.sessions (product_id);
create index on floor.sessions (status);
create index on floor.sessions (created_at);
create index on floor.sessions (expires_at);
create index on floor.sessions (provider, currency);

grant usage on schema floor to service_role;
grant insert on floor.sessions to service_role;
