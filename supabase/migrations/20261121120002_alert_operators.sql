-- Purpose: operators are told of incidents, once each; a review that comes back is told again; workers that end in good
--          order are not missed.
-- Locks:   payments.settings, one row, for an instant; nothing else that a purchase needs.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

-- squawk-ignore-file constraint-missing-not-valid, ban-drop-function
-- payments.settings has one row; claim_notifications comes back at once, with one more argument that has a default.

-- An outbox of its own: what is told here must not wait behind letters, and is never given up.
create table payments.alerts (
    id bigint primary key generated always as identity,
    kind text not null,
    subject text not null,
    detail text not null,
    opened_at timestamptz not null,
    seen_at timestamptz not null,
    closed_at timestamptz,
    due_at timestamptz not null,
    tries int not null default 0,
    error text,
    told_at timestamptz,
    constraint alerts_kind_is_known check (
        kind in (
            'broken_invariant', 'dead_letters', 'dead_webhooks', 'failed_verifications', 'signature_failures',
            'stale_heartbeat'
        )
    )
) with (fillfactor = 80);

comment on table payments.alerts is
'Incidents, each told to the operator once. One that was closed and comes back is a new one. No personal data.';
comment on column payments.alerts.subject is
'What it is about: a provider (with the reason, of dead webhooks), a kind of letter, a worker, an invariant.';
comment on column payments.alerts.seen_at is 'When the incident was last seen to last.';
comment on column payments.alerts.due_at is
'When it may be claimed to be told; a claim moves it on, so that a crashed process''s comes back.';

create unique index alerts_one_open_incident on payments.alerts (kind, subject) where closed_at is null;

-- Reader: claim_alerts.
create index alerts_untold on payments.alerts (due_at) where told_at is null;

alter table payments.alerts enable row level security;
revoke all on table payments.alerts from public, anon, authenticated, service_role;

create table payments.troubles (
    kind text not null,
    subject text not null,
    minute timestamptz not null,
    times bigint not null,
    primary key (kind, subject, minute),
    constraint troubles_kind_is_known check (kind in ('failed_verifications', 'signature_failures'))
) with (fillfactor = 70);

comment on table payments.troubles is
'What only the bridges see, counted over all of them, per minute of the last hour. watch_payments judges it.';

alter table payments.troubles enable row level security;
revoke all on table payments.troubles from public, anon, authenticated, service_role;

alter table payments.settings
add column signature_failure_limit int default 5,
add column failed_verification_limit int default 10,
add constraint settings_alert_limits_are_not_negative check (
    signature_failure_limit >= 0 and failed_verification_limit >= 0
);

comment on column payments.settings.signature_failure_limit is
'How many notifications of a provider may be forged or wrongly signed in an hour before it is an alert; null: any.';
comment on column payments.settings.failed_verification_limit is
'How often in an hour a provider may not answer our questions before it is an alert; null: any.';

comment on column payments.notifications.occurrence is
'Which one of its kind: empty for the receipt, the refund''s id, the reminder''s number, the review''s reason '
'(with #2 when it comes back).';

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

-- Once each time that a reason arises: while it is open it was told, and when it comes back after having been cleared
-- it is news again, under a number.
create function payments.alert_review(
    p_session public.payment_checkout_sessions,
    p_open_before text,
    p_reason text,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_times bigint;
begin
    if p_reason = any(string_to_array(p_open_before, ', ')) then
        return;
    end if;
    select count(*) into v_times
    from payments.notifications as n
    where n.session_id = p_session.id
        and n.kind = 'review_alert'
        and split_part(n.occurrence, '#', 1) = p_reason;
    perform payments.queue_notification(
        p_session, 'review_alert', p_reason || case when v_times > 0 then '#' || v_times + 1 else '' end, '{}', p_now
    );
end;
$$;

comment on function payments.alert_review(public.payment_checkout_sessions, text, text, timestamptz) is
'Tells the operator that a session is for review, unless the reason was among p_open_before.';

revoke all on function payments.alert_review(public.payment_checkout_sessions, text, text, timestamptz)
from public, anon, authenticated, service_role;

-- Money is never silently dropped: what the engine cannot settle gets a reason that a person must look at.
create or replace function payments.flag_session(
    p_session public.payment_checkout_sessions,
    p_reason text,
    p_source text,
    p_occurred_at timestamptz,
    p_now timestamptz,
    p_detail text default null
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_open_before text;
    v_session public.payment_checkout_sessions;
begin
    select s.review_reason into v_open_before
    from public.payment_checkout_sessions as s
    where s.id = p_session.id;
    update public.payment_checkout_sessions as s
    set review_reason = payments.add_reason(s.review_reason, p_reason), updated_at = p_now
    where s.id = p_session.id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session.id, p_session.status, p_session.status, p_source, p_reason, p_occurred_at, p_now, p_detail
    );
    perform payments.alert_review(v_session, v_open_before, p_reason, p_now);
    return v_session;
end;
$$;

comment on function payments.flag_session(
    public.payment_checkout_sessions, text, text, timestamptz, timestamptz, text
) is
'Marks a session for review, whatever its status, says so in the audit trail and alerts the operator.';

revoke all on function payments.flag_session(
    public.payment_checkout_sessions, text, text, timestamptz, timestamptz, text
) from public, anon, authenticated, service_role;

create or replace function payments.note_fulfilment(
    p_session_id uuid,
    p_result payments.grant_result,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_failed boolean := p_result.fulfilment_status = 'failed';
    v_failure text;
    v_open_before text;
    v_session public.payment_checkout_sessions;
begin
    -- what was given once can only fail to be taken back (or given again)
    select case when s.fulfilment is null then 'fulfilment_failed' else 'reversal_failed' end, s.review_reason
    into v_failure, v_open_before
    from public.payment_checkout_sessions as s
    where s.id = p_session_id;
    update public.payment_checkout_sessions as s
    set fulfilment_status = case
            when v_failed and v_failure = 'reversal_failed' then s.fulfilment_status else p_result.fulfilment_status
        end,
        fulfilment = p_result.fulfilment,
        error_code = case when v_failed and v_failure = 'fulfilment_failed' then coalesce(p_result.error_code, s.error_code) end,
        error_message = case
            when v_failed and v_failure = 'fulfilment_failed' then coalesce(p_result.error_message, s.error_message)
        end,
        review_reason = case
            when v_failed then payments.add_reason(s.review_reason, v_failure)
            else payments.drop_reason(payments.drop_reason(s.review_reason, 'fulfilment_failed'), 'reversal_failed')
        end,
        updated_at = p_now
    where s.id = p_session_id
    returning s.* into v_session;
    if v_failed then
        perform payments.alert_review(v_session, v_open_before, v_failure, p_now);
    end if;
    return v_session;
end;
$$;

comment on function payments.note_fulfilment(uuid, payments.grant_result, timestamptz) is
'Stores how giving a paid purchase, or taking it back, went; a failure is for review (fulfilment_failed, '
'reversal_failed), a success ends that review.';

revoke all on function payments.note_fulfilment(uuid, payments.grant_result, timestamptz)
from public, anon, authenticated, service_role;

-- The one place where a session becomes completed: handler, then one update of the locked row, then what tells of it.
-- The invoice comes last: its counter is the one lock that all purchases share.
create or replace function payments.complete_session(
    p_session public.payment_checkout_sessions,
    p_capture payments.captures,
    p_provider_customer_id text,
    p_source text,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_grant payments.grant_result;
    v_review text;
    v_session public.payment_checkout_sessions;
begin
    if p_session.status in ('failed', 'expired', 'cancelled') then
        v_review := payments.yield_purchase(p_session, p_source, p_now);
    end if;
    if p_capture.amount > p_session.amount then
        v_review := payments.add_reason(v_review, 'overpaid');
    end if;
    if p_session.coupon_id is not null then
        perform payments.confirm_coupon(p_session, p_now);
    end if;
    v_grant := payments.fulfil(p_session);
    if v_grant.fulfilment_status = 'failed' then
        v_review := payments.add_reason(v_review, 'fulfilment_failed');
    end if;
    update public.payment_checkout_sessions as s
    set status = 'completed',
        provider = p_capture.provider,
        provider_session_id = coalesce(p_capture.provider_session_id, s.provider_session_id),
        provider_payment_id = p_capture.provider_payment_id,
        provider_customer_id = coalesce(p_provider_customer_id, s.provider_customer_id),
        fulfilment_status = v_grant.fulfilment_status,
        fulfilment = v_grant.fulfilment,
        error_code = v_grant.error_code,
        error_message = v_grant.error_message,
        review_reason = payments.add_reason(s.review_reason, v_review),
        completed_at = p_now,
        updated_at = p_now
    where s.id = p_session.id
    returning s.* into v_session;
    perform payments.add_session_event(
        p_session.id, p_session.status, 'completed', p_source, v_review, p_capture.paid_at, p_now, v_grant.detail
    );
    perform payments.alert_review(v_session, p_session.review_reason, reason, p_now)
    from unnest(string_to_array(v_review, ', ')) as reason;
    perform payments.queue_notification(v_session, 'receipt', '', '{}', p_now);
    perform payments.issue_document('invoice', v_session, v_session.amount, p_now);
    return v_session;
end;
$$;

comment on function payments.complete_session(
    public.payment_checkout_sessions, payments.captures, text, text, timestamptz
) is
'Fulfils and completes a locked session whose capture was just recorded as settled, or that costs nothing; queues the '
'receipt and issues the invoice.';

revoke all on function payments.complete_session(
    public.payment_checkout_sessions, payments.captures, text, text, timestamptz
) from public, anon, authenticated, service_role;

drop function public.claim_notifications(int);

create function public.claim_notifications(p_limit int default 50, p_kinds text[] default null)
returns table (id bigint, session_id uuid, user_id uuid, kind text, email text, payload jsonb, tries int)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    with due as (
        -- a reminder that waited here while its buyer paid is not sent
        select n.id, n.kind = 'reminder' and not exists (
            select from public.payment_checkout_sessions as s
            where s.id = n.session_id and s.status = 'pending' and s.expires_at > now()
        ) as pointless
        from payments.notifications as n
        where n.status = 'queued' and n.due_at <= now() and (p_kinds is null or n.kind = any(p_kinds))
        order by n.due_at
        limit p_limit
        for no key update skip locked
    ),

    claimed as (
        update payments.notifications as n
        set status = case when due.pointless then 'cancelled' else n.status end,
            finished_at = case when due.pointless then now() end,
            tries = n.tries + 1,
            due_at = now() + interval '5 minutes'
        from due
        where n.id = due.id
        returning n.*
    )

    select c.id, c.session_id, c.user_id, c.kind, c.email, c.payload || jsonb_build_object(
        'occurrence', c.occurrence,
        'product_name', (select p.name from public.payment_products as p where p.id = c.payload ->> 'product_id'),
        'invoice', (
            select i.series || '-' || i.year || '-' || i.number
            from public.payment_invoices as i
            where i.session_id = c.session_id and i.kind = 'invoice'
        )
    ), c.tries
    from claimed as c
    where c.status = 'queued'
    order by c.id;
end;
$$;

comment on function public.claim_notifications(int, text[]) is
'Up to p_limit due notifications (of p_kinds; null is all), each for one worker: {id, session_id, user_id, kind, email '
'(null: the operator), payload, tries}. The claim lasts 5 minutes; end it with finish_notification.';

revoke all on function public.claim_notifications(int, text[]) from public, anon, authenticated, service_role;
grant execute on function public.claim_notifications(int, text[]) to service_role;

create function public.forget_heartbeat(p_name text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if coalesce(length(p_name), 0) not between 1 and 100 then
        raise exception 'p_name must have 1 to 100 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Name the worker as in record_heartbeat.';
    end if;
    delete from payments.heartbeats as h where h.name = p_name;
end;
$$;

comment on function public.forget_heartbeat(text) is
'A worker ends its work in good order: nobody needs to miss it. Raises PT422 invalid_input.';

revoke all on function public.forget_heartbeat(text) from public, anon, authenticated, service_role;
grant execute on function public.forget_heartbeat(text) to service_role;

-- Cheap questions only, each answered by a small index or a small table: this is asked twice a minute.
create function payments.current_incidents(p_now timestamptz)
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

create function payments.keep_alerts(p_kinds text[], p_incidents jsonb, p_now timestamptz)
returns setof payments.alerts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with incidents as (
        select i.kind, i.subject, i.detail
        from jsonb_to_recordset(p_incidents) as i (kind text, subject text, detail text)
    ),

    closed as (
        update payments.alerts as a
        set closed_at = p_now
        where a.closed_at is null
            and a.kind = any(p_kinds)
            and not exists (select from incidents as i where i.kind = a.kind and i.subject = a.subject)
        returning a.*
    ),

    kept as (
        insert into payments.alerts as a (kind, subject, detail, opened_at, seen_at, due_at)
        select i.kind, i.subject, i.detail, p_now, p_now, p_now
        from incidents as i
        on conflict (kind, subject) where closed_at is null do update
            set detail = excluded.detail, seen_at = excluded.seen_at
        returning a.*
    )

    select k.*
    from kept as k
    where k.opened_at = p_now
    union all
    select c.*
    from closed as c;
end;
$$;

comment on function payments.keep_alerts(text[], jsonb, timestamptz) is
'Opens, refreshes and closes the alerts of these kinds so that they are these incidents ([{kind, subject, detail}]); '
'rows: those opened or closed now. Its callers let one at a time in.';

revoke all on function payments.keep_alerts(text[], jsonb, timestamptz) from public, anon, authenticated, service_role;

create function public.watch_payments()
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
        array['dead_letters', 'dead_webhooks', 'failed_verifications', 'signature_failures', 'stale_heartbeat'],
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

create function public.audit_payments()
returns table (change text, kind text, subject text, detail text)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    -- it reads everything: one at a time
    if not pg_try_advisory_xact_lock(7243923, 1) then
        return;
    end if;
    return query
    select case when k.closed_at is null then 'opened' else 'closed' end, k.kind, k.subject, k.detail
    from payments.keep_alerts(
        array['broken_invariant'],
        (
            select coalesce(
                jsonb_agg(jsonb_build_object('kind', 'broken_invariant', 'subject', b.invariant, 'detail', b.detail)), '[]'
            )
            from (
                select r.invariant, format('%s rows of check_payment_invariants.', count(*)) as detail
                from public.check_payment_invariants() as r
                group by r.invariant
            ) as b
        ),
        now()
    ) as k;
end;
$$;

comment on function public.audit_payments() is
'Opens an alert for each invariant that check_payment_invariants finds broken and closes those that hold again; rows '
'as of watch_payments. Reads everything.';

revoke all on function public.audit_payments() from public, anon, authenticated, service_role;
grant execute on function public.audit_payments() to service_role;

create function public.claim_alerts(p_limit int default 10)
returns table (id bigint, kind text, subject text, detail text, opened_at timestamptz, tries int)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
rows 10
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    with due as (
        select a.id
        from payments.alerts as a
        where a.told_at is null
            and a.due_at <= now()
            -- what was over long before anybody could be told is history
            and (a.closed_at is null or a.closed_at > now() - interval '1 day')
        order by a.due_at
        limit p_limit
        for no key update skip locked
    ),

    claimed as (
        update payments.alerts as a
        set tries = a.tries + 1, due_at = now() + interval '5 minutes'
        from due
        where a.id = due.id
        returning a.*
    )

    select c.id, c.kind, c.subject, c.detail, c.opened_at, c.tries
    from claimed as c
    order by c.id;
end;
$$;

comment on function public.claim_alerts(int) is
'Up to p_limit alerts of which the operator has not been told, each for one process: {id, kind, subject, detail, '
'opened_at, tries}. The claim lasts 5 minutes; end it with finish_alert.';

revoke all on function public.claim_alerts(int) from public, anon, authenticated, service_role;
grant execute on function public.claim_alerts(int) to service_role;

create function public.finish_alert(p_id bigint, p_error text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.alerts as a
    set told_at = case when p_error is null then now() end,
        error = left(p_error, 500),
        -- 1, 2, 4 … minutes, at most an hour, and never given up while it lasts
        due_at = now() + least(interval '1 minute' * 2 ^ least(a.tries - 1, 20), interval '1 hour')
    where a.id = p_id and a.told_at is null and a.tries > 0;
    if not found and not exists (select from payments.alerts as a where a.id = p_id and a.tries > 0) then
        raise exception 'Alert % was not claimed.', p_id
            using errcode = 'PT404', detail = 'notification_not_claimed', hint = 'Pass an id that claim_alerts gave.';
    end if;
end;
$$;

comment on function public.finish_alert(bigint, text) is
'Ends a claimed alert: told, or (with p_error) to be told again later. One that was told stays so. Raises PT404 '
'notification_not_claimed.';

revoke all on function public.finish_alert(bigint, text) from public, anon, authenticated, service_role;
grant execute on function public.finish_alert(bigint, text) to service_role;

-- Bridges add up what they see and call this with a sum, twice a minute at most: nobody can make us write at his rate.
create function public.report_trouble(p_kind text, p_subject text, p_count int)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if coalesce(p_kind, '') not in ('failed_verifications', 'signature_failures')
        or coalesce(p_subject, '') !~ '^[a-z][a-z0-9_-]{0,62}$'
        or coalesce(p_count, 0) < 1
    then
        raise exception 'The report is not valid.'
            using errcode = 'PT422', detail = 'invalid_input',
            hint = 'p_kind: failed_verifications or signature_failures; p_subject: a provider; p_count: 1 or more.';
    end if;
    insert into payments.troubles as t (kind, subject, minute, times)
    values (p_kind, p_subject, date_trunc('minute', now()), p_count)
    on conflict (kind, subject, minute) do update set times = t.times + excluded.times;
end;
$$;

comment on function public.report_trouble(text, text, int) is
'Adds to what bridges could not do in this minute: believe notifications of a provider (signature_failures), or ask it '
'(failed_verifications). watch_payments opens an alert above a rate. Raises PT422 invalid_input.';

revoke all on function public.report_trouble(text, text, int) from public, anon, authenticated, service_role;
grant execute on function public.report_trouble(text, text, int) to service_role;

create or replace function public.payment_health()
returns jsonb
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return jsonb_build_object(
        'sessions', (
            select jsonb_build_object(
                'pending', count(*) filter (where s.status = 'pending'),
                'pending_over_1h', count(*) filter (where s.status = 'pending' and s.created_at < now() - interval '1 hour'),
                'processing', count(*) filter (where s.status = 'processing'),
                'overdue', count(*) filter (where s.expires_at < now() - interval '2 hours')
            )
            from public.payment_checkout_sessions as s
            where s.status in ('pending', 'processing')
        ),
        'reviews', (
            select jsonb_build_object(
                'open', count(*),
                'paid_but_unfulfilled', count(*) filter (where s.fulfilment_status = 'failed'),
                'oldest_seconds', payments.seconds_since(min(s.created_at))
            )
            from public.payment_checkout_sessions as s
            where s.review_reason is not null
        ),
        'webhooks', (
            select jsonb_build_object(
                'failed', count(*) filter (where e.status = 'failed'),
                'dead', count(*) filter (where e.status = 'dead'),
                'oldest_seconds', payments.seconds_since(min(e.received_at))
            )
            from payments.webhook_events as e
            where e.status <> 'handled'
        ),
        'notifications', (
            select jsonb_build_object(
                'due', count(*), 'oldest_seconds', payments.seconds_since(min(n.due_at)),
                'dead', (select count(*) from payments.notifications as d where d.status = 'dead')
            )
            from payments.notifications as n
            where n.status = 'queued' and n.due_at <= now()
        ),
        'reconcile', (
            select jsonb_build_object('due', count(*), 'oldest_seconds', payments.seconds_since(min(a.reconcile_at)))
            from payments.attempts as a
            where a.reconcile_at <= now()
        ),
        'invoices', (
            select jsonb_build_object('unnumbered', count(*), 'oldest_seconds', payments.seconds_since(min(u.created_at)))
            from payments.unnumbered_invoices as u
        ),
        'heartbeats', (
            select coalesce(jsonb_object_agg(h.name, payments.seconds_since(h.beat_at)), '{}')
            from payments.heartbeats as h
        ),
        'alerts', (
            select coalesce(jsonb_object_agg(o.kind, o.incidents), '{}')
            from (
                select a.kind, count(*) as incidents
                from payments.alerts as a
                where a.closed_at is null
                group by a.kind
            ) as o
        )
    );
end;
$$;

comment on function public.payment_health() is
'What waits and for how long (seconds): {sessions: {pending, pending_over_1h, processing, overdue}, reviews: '
'{open, paid_but_unfulfilled, oldest_seconds}, webhooks: {failed, dead, oldest_seconds}, notifications: {due, '
'oldest_seconds, dead}, reconcile: {due, oldest_seconds}, invoices: {unnumbered, oldest_seconds}, heartbeats: {worker: '
'seconds}, alerts: {kind: open incidents}}.';

revoke all on function public.payment_health() from public, anon, authenticated, service_role;
grant execute on function public.payment_health() to service_role;

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
            ('pgcheckout-forget-idempotency-keys', '17 3 * * *', 'select public.cleanup_idempotency_keys()'),
            ('pgcheckout-clean-up', '27 3 * * 0', 'select public.cleanup_completed_checkout_sessions()'),
            ('pgcheckout-check-invariants', '37 3 * * *', 'select payments.assert_invariants()'),
            ('pgcheckout-audit', '47 3 * * *', 'select public.audit_payments()')
        ) as j (name, schedule, command)
    loop
        execute format('select %I.schedule($1, $2, $3)', v_schema) using v_job.name, v_job.schedule, v_job.command;
        v_count := v_count + 1;
    end loop;
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
