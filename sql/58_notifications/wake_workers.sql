-- Only a hint: a worker that hears nothing finds its work by the timer. NOTIFY takes a lock of the whole server and
-- keeps it until its commit is on disk, so that all commits would queue at it. Therefore one transaction at a time may
-- notify, and whoever finds another one at it goes on without: nobody ever waits here, and no lock order is concerned.
-- A queue that somebody's forgotten listener has filled would fail the commit: money is worth more than a hint.
create function payments.wake_workers(p_job text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_try_advisory_xact_lock(7243922, 0) and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('pgcheckout_work', p_job);
    end if;
end;
$$;

comment on function payments.wake_workers(text) is
'Wakes sleeping workers when this transaction commits, unless another transaction is about to: then they find what is '
'new by themselves, at the latest by their timer. p_job: the job to do, e.g. notify; nothing else is told.';

revoke all on function payments.wake_workers(text) from public, anon, authenticated, service_role;
