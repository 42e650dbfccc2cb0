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
