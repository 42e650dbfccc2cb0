-- The buyer paid with a method that takes days. That can also happen on the page of a session that has since expired,
-- failed or been cancelled; a newer session that then holds the purchase's only open place gives way if it is unpaid.
create function payments.begin_processing(
    p_session public.payment_checkout_sessions,
    p_attempt_number bigint,
    p_outcome payments.outcome,
    p_now timestamptz
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rival_id uuid;
    v_rival_processing boolean := false;
begin
    if p_session.status in ('failed', 'expired', 'cancelled') then
        select s.id into v_rival_id
        from payments.sessions_of_purchase(p_session) as s
        where s.status in ('pending', 'processing');
        perform payments.move_session(
            v_rival_id, array['pending'], ('cancelled', p_outcome.source, 'superseded', null, null), null, p_now
        );
        v_rival_processing := exists (
            select from payments.sessions_of_purchase(p_session) as s where s.status = 'processing'
        );
    end if;
    if v_rival_processing or (p_session.status = 'processing' and p_session.current_attempt <> p_attempt_number) then
        perform payments.flag_session(p_session, 'second_payment_processing', p_outcome.source, p_outcome.paid_at, p_now);
    elsif payments.move_session(
        p_session.id,
        array['pending', 'failed', 'expired', 'cancelled'],
        ('processing', p_outcome.source, null, null, null),
        p_outcome.paid_at,
        p_now
    ) then
        update public.payment_checkout_sessions as s
        set current_attempt = coalesce(p_attempt_number, s.current_attempt)
        where s.id = p_session.id;
        -- it may have left the reconciler's queue while another page was the current one
        update payments.attempts as a
        set reconcile_at = p_now + (select s.reconcile_after[1] from payments.settings as s)
        where a.number = p_attempt_number and a.reconcile_at is null;
    end if;
exception
    when unique_violation then -- a rival that appeared after the look above
        raise exception 'Another session of this purchase was opened at the same time.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
end;
$$;

comment on function payments.begin_processing(
    public.payment_checkout_sessions, bigint, payments.outcome, timestamptz
) is
'Moves a locked session to processing and makes the attempt that is being paid its current one. Raises PT503 '
'try_again.';

revoke all on function payments.begin_processing(
    public.payment_checkout_sessions, bigint, payments.outcome, timestamptz
) from public, anon, authenticated, service_role;
