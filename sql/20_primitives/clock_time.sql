create function payments.clock_time(p_time timestamptz)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return to_char(p_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"');
end;
$$;

comment on function payments.clock_time(timestamptz) is 'A time for people to read, whatever the session''s time zone.';

revoke all on function payments.clock_time(timestamptz) from public, anon, authenticated, service_role;
