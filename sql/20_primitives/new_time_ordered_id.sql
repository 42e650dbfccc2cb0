-- One id maker for every Postgres major, so that ids mean the same everywhere (UUIDv7 layout, RFC 9562):
--   48 bits milliseconds | 4 version | 12 fraction of the millisecond | 2 variant | 52 random | 10 shard
-- Ids of one user therefore sort by creation, and a router can tell the shard of an id without a look-up.
create function payments.new_time_ordered_id(p_user_id uuid)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_microseconds bigint := extract(epoch from clock_timestamp()) * 1000000;
    -- md5, because the built-in uuid hash may change between majors and a shard must never move
    v_shard int := ('x' || left(md5(p_user_id::text), 3))::bit(12)::int >> 2;
begin
    -- the second half of a random UUID brings the variant and the random bits with it
    return (
        lpad(to_hex(((v_microseconds / 1000) << 16) | 28672 | ((v_microseconds % 1000) * 4096 / 1000)), 16, '0')
        || to_hex(
            (('x' || right(translate(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint & -1024) | v_shard
        )
    )::uuid;
end;
$$;

comment on function payments.new_time_ordered_id(uuid) is
'A new UUIDv7-layout id whose last 10 bits name one of 1,024 logical shards (a hash of the user id).';

revoke all on function payments.new_time_ordered_id(uuid) from public, anon, authenticated, service_role;
