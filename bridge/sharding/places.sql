-- Which of the 1,024 logical shards something belongs to. The router and every shard have these functions, and must
-- agree on them for ever. Ids carry their user's logical shard in their last ten bits.
create schema if not exists shard_router;
revoke all on schema shard_router from public;

create or replace function shard_router.logical_of_user(p_user_id uuid)
returns int
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select ('x' || left(md5(p_user_id::text), 3))::bit(12)::int >> 2
$$;

comment on function shard_router.logical_of_user(uuid) is
'The logical shard of a user, as payments.new_time_ordered_id writes it into ids.';

create or replace function shard_router.logical_of_id(p_id uuid)
returns int
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select ('x' || right(p_id::text, 3))::bit(12)::int & 1023
$$;

comment on function shard_router.logical_of_id(uuid) is 'The logical shard that the id of a session or group carries.';

create or replace function shard_router.as_uuid(p_text text)
returns uuid
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when p_text ~ '^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$' then p_text::uuid end
$$;

comment on function shard_router.as_uuid(text) is 'A uuid, or null for what is none: a reference may be anything.';

create or replace function shard_router.logical_of_key(p_key text)
returns int
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        shard_router.logical_of_user(
            substring(p_key from '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}')::uuid
        ),
        ('x' || left(md5(p_key), 3))::bit(12)::int >> 2
    )
$$;

comment on function shard_router.logical_of_key(text) is
'The logical shard of an idempotency key: that of the user whom it names, as the bridge''s keys do, else its own hash.';

create or replace function shard_router.logical_of_event(p_provider text, p_event_id text, p_payload jsonb)
returns int
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        shard_router.logical_of_id(
            substring(p_payload::text from '\m[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}\M')::uuid
        ),
        ('x' || left(md5(p_provider || ':' || p_event_id), 3))::bit(12)::int >> 2
    )
$$;

comment on function shard_router.logical_of_event(text, text, jsonb) is
'Where a webhook is kept that was not applied: with the attempt whose reference it repeats, else by its own hash.';
