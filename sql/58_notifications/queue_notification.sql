-- In the transaction of what it tells: either both happened or neither.
create function payments.queue_notification(
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

comment on function payments.queue_notification(
    public.payment_checkout_sessions, text, text, jsonb, timestamptz
) is
'Queues a notification, once per session, kind and occurrence; buyers without an address get none.';

revoke all on function payments.queue_notification(
    public.payment_checkout_sessions, text, text, jsonb, timestamptz
) from public, anon, authenticated, service_role;
