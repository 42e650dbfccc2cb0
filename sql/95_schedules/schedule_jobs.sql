-- Names of the jobs are stable, so that scheduling again replaces them. Dynamic SQL, because the schema cron exists
-- only where pg_cron is installed.
create function payments.schedule_jobs()
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schema text := 'cron';
    v_job record;
    v_count int := 0;
begin
    if not exists (select from pg_catalog.pg_extension as e where e.extname = 'pg_cron') then
        return 0;
    end if;
    for v_job in
        select j.name, j.schedule, j.command
        from (values
            ('pgcheckout-expire', '7 * * * *', 'select public.expire_old_checkout_sessions()'),
            ('pgcheckout-remind', '*/15 * * * *', 'select public.enqueue_payment_reminders()'),
            ('pgcheckout-number-invoices', '* * * * *', 'select public.number_payment_invoices()'),
            ('pgcheckout-clean-up', '* * * * *', 'select public.purge_old_payment_data()'),
            (
                'pgcheckout-forget-runs', '17 3 * * *',
                'delete from cron.job_run_details as d using cron.job as j where j.jobid = d.jobid'
                ' and j.jobname like ''pgcheckout-%'' and d.end_time < now() - interval ''7 days'''
            ),
            ('pgcheckout-check-invariants', '37 3 * * *', 'select payments.assert_invariants()'),
            ('pgcheckout-audit', '47 3 * * *', 'select public.audit_payments()')
        ) as j (name, schedule, command)
    loop
        execute format('select %I.schedule($1, $2, $3)', v_schema) using v_job.name, v_job.schedule, v_job.command;
        v_count := v_count + 1;
    end loop;
    -- what this job did is now a part of pgcheckout-clean-up
    execute format('select %1$I.unschedule(j.jobid) from %1$I.job as j where j.jobname = $1', v_schema)
    using 'pgcheckout-forget-idempotency-keys';
    return v_count;
end;
$$;

comment on function payments.schedule_jobs() is
'Registers the periodic jobs with pg_cron and returns how many; 0 where the extension is not installed. Call it as '
'postgres after installing pg_cron.';

revoke all on function payments.schedule_jobs() from public, anon, authenticated, service_role;
