-- Ids are time-ordered, so a time is a place in the primary key: ranges of time need no index of their own.
create function payments.first_id_at(p_time timestamptz)
returns uuid
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        lpad(to_hex(greatest(extract(epoch from p_time) * 1000, 0)::bigint), 12, '0') || '70008000000000000000'
    )::uuid;
end;
$$;

comment on function payments.first_id_at(timestamptz) is
'The smallest id that new_time_ordered_id can make at a time: sessions from then on have that id or a larger one.';

revoke all on function payments.first_id_at(timestamptz) from public, anon, authenticated, service_role;
