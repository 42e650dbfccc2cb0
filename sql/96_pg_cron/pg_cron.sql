do $$
begin
    perform payments.schedule_jobs();
exception
    when insufficient_privilege or invalid_schema_name then
        raise notice 'pg_cron is there, but this role may not use it: run select payments.schedule_jobs() as postgres.';
end;
$$;
