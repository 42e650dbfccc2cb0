-- Money is never silently dropped: what the engine cannot settle gets a reason that a person must look at.
create function payments.flag_session(
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
