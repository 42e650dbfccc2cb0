-- Only to buyers who agreed: metadata.reminders is true, as the app asked them. Only while the session can be paid.
create function public.enqueue_payment_reminders()
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

comment on function public.enqueue_payment_reminders() is
'Queues a reminder for each unpaid session that is due one, and returns how many: after settings.reminder_after, at '
'most settings.reminder_limit, with an address, and with {"reminders": true} in the metadata as the buyer''s consent.';

revoke all on function public.enqueue_payment_reminders() from public, anon, authenticated, service_role;
grant execute on function public.enqueue_payment_reminders() to service_role;
