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
    v_fraction int := (v_microseconds % 1000) * 4096 / 1000;
    -- md5, because the built-in uuid hash may change between majors and a shard must never move
    v_shard int := ('x' || left(md5(p_user_id::text), 3))::bit(12)::int >> 2;
    v_bytes bytea := uuid_send(gen_random_uuid());
begin
    v_bytes := overlay(v_bytes placing substring(int8send(v_microseconds / 1000) from 3) from 1 for 6);
    v_bytes := set_byte(v_bytes, 6, 112 | (v_fraction >> 8));
    v_bytes := set_byte(v_bytes, 7, v_fraction & 255);
    v_bytes := set_byte(v_bytes, 14, (get_byte(v_bytes, 14) & 252) | (v_shard >> 8));
    v_bytes := set_byte(v_bytes, 15, v_shard & 255);
    return encode(v_bytes, 'hex')::uuid;
end;
$$;

comment on function payments.new_time_ordered_id(uuid) is
'A new UUIDv7-layout id whose last 10 bits name one of 1,024 logical shards (a hash of the user id).';

revoke all on function payments.new_time_ordered_id(uuid) from public, anon, authenticated, service_role;
