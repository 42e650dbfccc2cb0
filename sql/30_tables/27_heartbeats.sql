create table payments.heartbeats (
    name text primary key,
    beat_at timestamptz not null,
    constraint heartbeats_name_is_short check (length(name) between 1 and 100)
);

comment on table payments.heartbeats is 'When each worker was last seen at work.';

alter table payments.heartbeats enable row level security;
revoke all on table payments.heartbeats from public, anon, authenticated, service_role;
