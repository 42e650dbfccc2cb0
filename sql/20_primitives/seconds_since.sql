create function payments.seconds_since(p_time timestamptz)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return extract(epoch from now() - p_time)::bigint;
end;
$$;

comment on function payments.seconds_since(timestamptz) is 'Age in whole seconds; null for no time.';

revoke all on function payments.seconds_since(timestamptz) from public, anon, authenticated, service_role;
