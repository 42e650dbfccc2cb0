create function payments.story_of_purchase(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb, place bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        s.created_at, 'session', 'made for ' || s.product_id,
        jsonb_build_object(
            'session_id', s.id, 'status', s.status, 'fulfilment_status', s.fulfilment_status,
            'review_reason', s.review_reason, 'user_id', s.user_id, 'email', s.email, 'product_id', s.product_id,
            'subject', s.subject, 'provider', s.provider, 'currency', s.currency, 'original_amount', s.original_amount,
            'discount_amount', s.discount_amount, 'amount', s.amount, 'refunded_amount', s.refunded_amount,
            'coupon_id', s.coupon_id, 'fulfilment', s.fulfilment, 'error_code', s.error_code,
            'expires_at', s.expires_at, 'completed_at', s.completed_at
        ),
        0::bigint
    from public.payment_checkout_sessions as s
    where s.id = p_session_id
    union all
    select
        a.created_at, 'attempt', 'page for ' || a.provider,
        jsonb_build_object(
            'number', a.number, 'provider', a.provider, 'reference', a.reference, 'status', a.status,
            'provider_session_id', a.provider_session_id, 'error_code', a.error_code, 'error_message', a.error_message,
            'expires_at', a.expires_at, 'reconcile_at', a.reconcile_at, 'reconcile_tries', a.reconcile_tries
        ),
        a.number
    from payments.attempts as a
    where a.session_id = p_session_id
    union all
    select
        e.created_at, 'state',
        case when e.from_status = e.to_status then coalesce(e.reason, e.to_status) else e.from_status || ' -> ' || e.to_status end,
        jsonb_build_object(
            'from_status', e.from_status, 'to_status', e.to_status, 'source', e.source, 'reason', e.reason,
            'detail', e.detail, 'occurred_at', e.occurred_at
        ),
        e.id
    from payments.session_events as e
    where e.session_id = p_session_id;
end;
$$;

comment on function payments.story_of_purchase(uuid) is
'The part of checkout_session_story that the engine did: the session, its attempts and its changes.';

revoke all on function payments.story_of_purchase(uuid) from public, anon, authenticated, service_role;
