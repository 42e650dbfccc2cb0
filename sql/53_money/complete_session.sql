-- The one place where a session becomes completed: handler, then one update of the locked row, then what tells of it.
-- The invoice comes last: its counter is the one lock that all purchases share.
create function payments.complete_session(
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
    if v_review is not null then
        perform payments.alert_review(v_session, p_session.review_reason, reason, p_now)
        from unnest(string_to_array(v_review, ', ')) as reason;
    end if;
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
