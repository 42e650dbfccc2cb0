-- The current page has ended. Money may still be on its way from another page of the session: then that one speaks now.
create function payments.hand_over(p_session public.payment_checkout_sessions, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_number bigint;
begin
    update public.payment_checkout_sessions as s
    set current_attempt = a.number, updated_at = p_now
    from payments.attempts as a
    where s.id = p_session.id
        and s.status = 'processing'
        and a.session_id = p_session.id
        and a.number <> p_session.current_attempt
        and a.status = 'processing'
    returning a.number into v_number;
    update payments.attempts as a
    set reconcile_at = p_now + (select s.reconcile_after[1] from payments.settings as s)
    where a.number = v_number and a.reconcile_at is null;
    return v_number is not null;
end;
$$;

comment on function payments.hand_over(public.payment_checkout_sessions, timestamptz) is
'Makes another attempt whose payment is under way the session''s current one; false when there is none.';

revoke all on function payments.hand_over(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;
