-- Purpose: what is older than payments.settings wants it kept leaves in small batches: sessions, notifications, events,
--          audit trail, idempotency keys, closed alerts. Money that comes for a session which has gone is an alert.
-- Locks:   ACCESS EXCLUSIVE on settings, session_events and alerts for a moment; SHARE on captures (payments wait)
--          while it is read to the end for an index of nearly nothing: a fraction of a second per million captures.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
-- squawk-ignore-file ban-drop-constraint, ban-drop-function, constraint-missing-not-valid
-- squawk-ignore-file require-concurrent-index-creation
set lock_timeout = '5s';

alter table payments.settings
add column session_retention interval not null default '400 days',
add column webhook_retention interval not null default '90 days',
add column audit_retention interval not null default '10 years',
add column idempotency_retention interval not null default '24 hours';

alter table payments.settings
add constraint settings_retentions_outlast_what_comes_late check (
    session_retention >= interval '30 days'
    and webhook_retention > interval '30 days'
    and audit_retention >= session_retention
    and idempotency_retention >= interval '1 hour'
);

comment on column payments.settings.session_retention is
'How long closed sessions are kept, with what was written to their buyers. Longer than payments can be disputed.';
comment on column payments.settings.webhook_retention is
'How long events of providers are kept once they are handled, with their payloads.';
comment on column payments.settings.audit_retention is
'How long the audit trail is kept; younger rows cannot be deleted.';
comment on column payments.settings.idempotency_retention is
'How long a repeated request gets the answer of the first.';

create function payments.keep_audit_trail()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from removed as r
        cross join payments.settings as s
        where r.created_at >= now() - s.audit_retention
    ) then
        raise exception 'Only history older than settings.audit_retention can be deleted.'
            using errcode = 'PT409', detail = 'append_only', hint = 'Write a new row that corrects the old one.';
    end if;
    return null;
end;
$$;

comment on function payments.keep_audit_trail() is
'Statement trigger after delete, with the table removed. Raises PT409 append_only.';

revoke all on function payments.keep_audit_trail() from public, anon, authenticated, service_role;

create or replace trigger session_events_are_append_only
before update or truncate on payments.session_events
for each statement execute function payments.forbid_change();

create trigger session_events_are_kept
after delete on payments.session_events
referencing old table as removed
for each statement execute function payments.keep_audit_trail();

comment on table payments.session_events is
'Audit trail: one row for every change of a checkout session. Append-only; kept for settings.audit_retention.';

create or replace function public.cleanup_completed_checkout_sessions(
    p_older_than interval default '90 days',
    p_limit int default 10000
)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old updated_at
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_older_than < interval '1 day' then
        raise exception 'p_older_than must be a day at least.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Late money and refunds need their sessions.';
    end if;
    with old as (
        select s.id
        from public.payment_checkout_sessions as s
        where s.id < payments.first_id_at(now() - p_older_than)
            and s.status not in ('pending', 'processing')
            and s.review_reason is null
            and s.updated_at < now() - p_older_than
            -- counted, so that each session asks its index: a join would read all refunds
            and 0 = (
                select count(*) from public.payment_refunds as r where r.session_id = s.id and r.status = 'pending'
            )
        order by s.id
        limit p_limit
        for update skip locked
    )

    delete from public.payment_checkout_sessions as s
    using old
    where s.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_completed_checkout_sessions(interval, int) is
'Deletes up to p_limit closed sessions that nothing has happened to for so long, oldest first, and returns how many. '
'Those in review or with a refund under way stay. Captures, refunds, credit entries, invoices and the audit trail are '
'kept. Raises PT422 invalid_input.';

revoke all on function public.cleanup_completed_checkout_sessions(interval, int)
from public, anon, authenticated, service_role;
grant execute on function public.cleanup_completed_checkout_sessions(interval, int) to service_role;

-- a parameter more
drop function public.cleanup_idempotency_keys(interval);

create function public.cleanup_idempotency_keys(
    p_older_than interval default '24 hours',
    p_limit int default 10000
)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_older_than < interval '0' then
        raise exception 'p_older_than must not be negative.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Keep keys for as long as clients repeat requests.';
    end if;
    with old as (
        select k.key
        from payments.idempotency_keys as k
        where k.updated_at < now() - p_older_than and (k.status <> 'pending' or k.leased_until < now())
        order by k.updated_at
        limit p_limit
        for update skip locked
    )

    delete from payments.idempotency_keys as k
    using old
    where k.key = old.key;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_idempotency_keys(interval, int) is
'Forgets up to p_limit finished and abandoned requests that are older, oldest first, and returns how many. Raises '
'PT422 invalid_input.';

revoke all on function public.cleanup_idempotency_keys(interval, int)
from public, anon, authenticated, service_role;
grant execute on function public.cleanup_idempotency_keys(interval, int) to service_role;

-- Those that are not handled stay for an operator to replay. Should a provider send one again that is forgotten, the
-- money it tells of is known by its own key (payments.captures, payment_refunds), which is kept for ever.
create function payments.purge_webhook_events(p_before timestamptz, p_limit int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old received_at
as $$
declare
    v_count int;
begin
    with old as (
        select e.provider, e.event_id
        from payments.webhook_events as e
        where e.session_id < payments.first_id_at(p_before) and e.received_at < p_before and e.status = 'handled'
        order by e.session_id
        limit p_limit
        for update skip locked
    )

    delete from payments.webhook_events as e
    using old
    where e.provider = old.provider and e.event_id = old.event_id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function payments.purge_webhook_events(timestamptz, int) is
'Deletes up to p_limit handled events that were received before, oldest first, and returns how many.';

revoke all on function payments.purge_webhook_events(timestamptz, int) from public, anon, authenticated, service_role;

-- While the session is there, a notification's key is what keeps it from being sent twice.
create function payments.purge_notifications(p_before timestamptz, p_limit int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old created_at
as $$
declare
    v_count int;
begin
    with old as (
        select n.id
        from payments.notifications as n
        where n.session_id < payments.first_id_at(p_before)
            and n.created_at < p_before
            and n.status in ('sent', 'cancelled')
            -- counted, so that each row asks the index: a join would read all sessions
            and 0 = (select count(*) from public.payment_checkout_sessions as s where s.id = n.session_id)
        order by n.session_id
        limit p_limit
        for update skip locked
    )

    delete from payments.notifications as n
    using old
    where n.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function payments.purge_notifications(timestamptz, int) is
'Deletes up to p_limit notifications made before, of sessions that have gone, and returns how many. Those waiting and '
'dead stay.';

revoke all on function payments.purge_notifications(timestamptz, int) from public, anon, authenticated, service_role;

create function payments.purge_session_events(p_before timestamptz, p_limit int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old created_at
as $$
declare
    v_count int;
begin
    with old as (
        select e.session_id, e.id
        from payments.session_events as e
        where e.session_id < payments.first_id_at(p_before)
            and e.created_at < p_before
            -- counted, so that each row asks an index: a join would read all sessions and captures
            and 0 = (select count(*) from public.payment_checkout_sessions as s where s.id = e.session_id)
            and 0 = (
                select count(*)
                from payments.captures as c
                where c.session_id = e.session_id
                    and c.disposition in ('duplicate', 'amount_mismatch', 'currency_mismatch')
            )
        order by e.session_id, e.id
        limit p_limit
        for update skip locked
    )

    delete from payments.session_events as e
    using old
    where e.session_id = old.session_id and e.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function payments.purge_session_events(timestamptz, int) is
'Deletes up to p_limit rows of the audit trail written before, of sessions that have gone, oldest first, and returns '
'how many. The trail of money that did not pay its session stays.';

revoke all on function payments.purge_session_events(timestamptz, int) from public, anon, authenticated, service_role;

-- One call is one transaction that deletes a few rows and holds their locks for milliseconds; callers repeat it.
-- Attempts, captures, refunds, entries and invoices stay: money that comes late, or twice, is recognised by them.
create function public.purge_old_payment_data(p_limit int default 200)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings payments.settings;
    v_sessions int;
    v_events int;
    v_notifications int;
    v_audit int;
    v_keys int;
    v_alerts int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    select s.* into v_settings from payments.settings as s;
    v_sessions := public.cleanup_completed_checkout_sessions(v_settings.session_retention, p_limit);
    p_limit := p_limit - v_sessions;
    v_notifications := payments.purge_notifications(now() - v_settings.session_retention, p_limit);
    p_limit := p_limit - v_notifications;
    v_events := payments.purge_webhook_events(now() - v_settings.webhook_retention, p_limit);
    p_limit := p_limit - v_events;
    v_audit := payments.purge_session_events(now() - v_settings.audit_retention, p_limit);
    p_limit := p_limit - v_audit;
    v_keys := public.cleanup_idempotency_keys(v_settings.idempotency_retention, p_limit);
    -- incidents are few, and need no index
    delete from payments.alerts as a where a.closed_at < now() - v_settings.session_retention;
    get diagnostics v_alerts = row_count;
    return jsonb_build_object(
        'sessions', v_sessions, 'notifications', v_notifications, 'webhook_events', v_events, 'session_events', v_audit,
        'idempotency_keys', v_keys, 'alerts', v_alerts
    );
end;
$$;

comment on function public.purge_old_payment_data(int) is
'Deletes up to p_limit rows that payments.settings wants kept no longer, and old alerts; answers how many of each: '
'{sessions, notifications, webhook_events, session_events, idempotency_keys, alerts}. Call it again until all are 0. '
'What is open, waits for a person or was not sent stays. Raises PT422 invalid_input.';

revoke all on function public.purge_old_payment_data(int) from public, anon, authenticated, service_role;
grant execute on function public.purge_old_payment_data(int) to service_role;

alter table payments.alerts
drop constraint alerts_kind_is_known,
add constraint alerts_kind_is_known check (
    kind in (
        'broken_invariant', 'dead_letters', 'dead_webhooks', 'failed_verifications', 'orphaned_money',
        'signature_failures', 'stale_heartbeat'
    )
);

create index captures_orphaned on payments.captures (created_at) where disposition = 'orphaned';

-- Cheap questions only, each answered by a small index or a small table: this is asked twice a minute.
create or replace function payments.current_incidents(p_now timestamptz)
returns table (kind text, subject text, detail text)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    -- one per reason: the same trouble with a hundred webhooks is one incident
    select 'dead_webhooks', e.provider || ': ' || coalesce(substring(e.error from '^[a-z0-9_]+$'), 'other'),
        format('%s notifications could not be applied, the oldest of %s.', count(*), payments.clock_time(min(e.received_at)))
    from payments.webhook_events as e
    where e.status = 'dead'
    group by 2
    union all
    select 'dead_letters', n.kind, format('%s could not be sent, the oldest of %s.', count(*), payments.clock_time(min(n.created_at)))
    from payments.notifications as n
    where n.status = 'dead'
    group by n.kind
    union all
    -- workers beat every 15 seconds
    select 'stale_heartbeat', h.name, format('Last seen at %s.', payments.clock_time(h.beat_at))
    from payments.heartbeats as h
    where h.beat_at < p_now - interval '2 minutes'
    union all
    -- nothing was given or taken back for it: its session had gone, and its user with it
    select 'orphaned_money', o.provider, format('%s payments, refunds or disputes in the last week.', count(*))
    from (
        select c.provider
        from payments.captures as c
        where c.disposition = 'orphaned' and c.created_at > p_now - interval '7 days'
        union all
        select r.provider
        from public.payment_refunds as r
        where r.user_id is null and r.created_at > p_now - interval '7 days'
    ) as o
    group by o.provider
    union all
    select t.kind, t.subject, format('%s in the last hour.', sum(t.times))
    from payments.troubles as t
    cross join payments.settings as s
    where t.minute > p_now - interval '1 hour'
    group by t.kind, t.subject, s.signature_failure_limit, s.failed_verification_limit
    having sum(t.times) > case t.kind
            when 'signature_failures' then s.signature_failure_limit
            else s.failed_verification_limit
        end;
end;
$$;

comment on function payments.current_incidents(timestamptz) is
'What an operator must hear of, as watch_payments sees it at p_now; broken invariants are left to audit_payments.';

revoke all on function payments.current_incidents(timestamptz) from public, anon, authenticated, service_role;

create or replace function public.watch_payments()
returns table (change text, kind text, subject text, detail text)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    -- every process watches; while one looks, the others need not
    if not pg_try_advisory_xact_lock(7243923, 0) then
        return;
    end if;
    return query
    select case when k.closed_at is null then 'opened' else 'closed' end, k.kind, k.subject, k.detail
    from payments.keep_alerts(
        array[
            'dead_letters', 'dead_webhooks', 'failed_verifications', 'orphaned_money', 'signature_failures',
            'stale_heartbeat'
        ],
        (select coalesce(jsonb_agg(to_jsonb(i)), '[]') from payments.current_incidents(now()) as i),
        now()
    ) as k;
    delete from payments.troubles as t where t.minute <= now() - interval '1 hour';
    -- a worker that did not come back under its name never will; its alert ends with it
    delete from payments.heartbeats as h where h.beat_at < now() - interval '1 day';
end;
$$;

comment on function public.watch_payments() is
'Opens an alert for each new incident and closes those that are over; rows: {change (opened, closed), kind, subject, '
'detail}. Cheap: ask twice a minute. Heartbeats older than a day are forgotten.';

revoke all on function public.watch_payments() from public, anon, authenticated, service_role;
grant execute on function public.watch_payments() to service_role;

-- Names of the jobs are stable, so that scheduling again replaces them. Dynamic SQL, because the schema cron exists
-- only where pg_cron is installed.
create or replace function payments.schedule_jobs()
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

do $$
begin
    perform payments.schedule_jobs();
exception
    when insufficient_privilege or invalid_schema_name then
        raise notice 'pg_cron is there, but this role may not use it: run select payments.schedule_jobs() as postgres.';
end;
$$;
