-- Purpose: a queued letter wakes sleeping workers; an operator can list the pages of unpaid sessions.
-- Locks:   none.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

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

-- In the transaction of what it tells: either both happened or neither.
create or replace function payments.queue_notification(
    p_session public.payment_checkout_sessions,
    p_kind text,
    p_occurrence text,
    p_details jsonb,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_kind <> 'review_alert' and p_session.email is null then
        return;
    end if;
    insert into payments.notifications (session_id, user_id, kind, occurrence, email, payload, due_at, created_at)
    values (
        p_session.id, p_session.user_id, p_kind, p_occurrence,
        case when p_kind <> 'review_alert' then p_session.email end,
        jsonb_build_object(
            'product_id', p_session.product_id, 'amount', p_session.amount, 'currency', p_session.currency
        ) || p_details,
        p_now, p_now
    )
    on conflict do nothing;
    if found then
        perform payments.wake_workers('notify');
    end if;
end;
$$;

-- Only to buyers who agreed: metadata.reminders is true, as the app asked them. Only while the session can be paid.
create or replace function public.enqueue_payment_reminders()
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
    with abandoned as (
        select s.*, reminder.number
        from public.payment_checkout_sessions as s
        cross join payments.settings as t
        cross join lateral (
            select count(*)::int + 1 as number, max(n.created_at) as last_at
            from payments.notifications as n
            where n.session_id = s.id and n.kind = 'reminder'
        ) as reminder
        where s.status = 'pending'
            and s.expires_at > now()
            and s.email is not null
            and s.metadata @> '{"reminders": true}'
            and reminder.number <= t.reminder_limit
            and coalesce(reminder.last_at, s.created_at) <= now() - t.reminder_after
    ),

    queued as (
        insert into payments.notifications (session_id, user_id, kind, occurrence, email, payload, due_at, created_at)
        select a.id, a.user_id, 'reminder', a.number, a.email, jsonb_build_object(
            'product_id', a.product_id, 'amount', a.amount, 'currency', a.currency, 'checkout_url', a.checkout_url,
            'expires_at', a.expires_at
        ), now(), now()
        from abandoned as a
        on conflict do nothing
        returning 1
    )

    select count(*) into v_count from queued;
    if v_count > 0 then
        perform payments.wake_workers('notify');
    end if;
    return v_count;
end;
$$;

-- For an operator who asks by hand, after an outage say. It only reads: asking through the one door is safe beside the
-- workers, while moving reconcile_at would hand them a flood, lose the order of their queue, and leave out the pages
-- that they have given up.
create function public.list_unsettled_pages(
    p_since timestamptz default null,
    p_provider text default null,
    p_after uuid default null,
    p_limit int default 1000
)
returns table (session_id uuid, provider text, reference text)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_since > now() then
        raise exception 'p_since is in the future.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out for what is due now.';
    end if;
    return query
    select distinct on (s.id) s.id, a.provider, a.reference
    from public.payment_checkout_sessions as s
    inner join payments.attempts as a on s.id = a.session_id
    where s.id >= payments.first_id_at(coalesce(p_since, '-infinity'))
        and s.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
        and (p_since is not null or a.reconcile_at <= now())
        and s.completed_at is null
        and a.status in ('open', 'processing')
        and a.provider_session_id is not null
        and a.provider = coalesce(p_provider, a.provider)
    -- one page speaks for a session: whoever asks about it asks about the others, too
    order by s.id, a.number is not distinct from s.current_attempt desc, a.number desc
    limit p_limit;
end;
$$;

comment on function public.list_unsettled_pages(timestamptz, text, uuid, int) is
'Unpaid sessions made since p_since with the page to ask about, due or not, by session id: {session_id, provider, '
'reference}. Without p_since: those that are due now. p_after: the last session id of the answer before. Raises PT422 '
'invalid_input.';

revoke all on function public.list_unsettled_pages(timestamptz, text, uuid, int)
from public, anon, authenticated, service_role;
grant execute on function public.list_unsettled_pages(timestamptz, text, uuid, int) to service_role;
