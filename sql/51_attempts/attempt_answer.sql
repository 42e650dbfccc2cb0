create function payments.attempt_answer(
    p_session public.payment_checkout_sessions,
    p_attempt payments.attempts
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_product_name text;
begin
    select p.name into v_product_name from public.payment_products as p where p.id = p_session.product_id;
    return payments.session_answer(p_session, p_session.completed_at is not null) || jsonb_build_object(
        'user_id', p_session.user_id,
        'amount', p_session.amount,
        'currency', p_session.currency,
        'email', p_session.email,
        'product_id', p_session.product_id,
        'product_name', v_product_name,
        'provider', coalesce(p_attempt.provider, p_session.provider),
        'provider_payment_id', p_session.provider_payment_id,
        'session_expires_at', p_session.expires_at,
        'number', p_attempt.number,
        'reference', p_attempt.reference,
        'provider_session_id', p_attempt.provider_session_id,
        'checkout_url', p_attempt.checkout_url,
        'created_at', p_attempt.created_at,
        'expires_at', p_attempt.expires_at
    ) || case
        when p_session.completed_at is null
            then '{"refundable_amount": 0, "refund_count": 0, "refund_under_way": null, "refund_statuses": {}}'
        else payments.refund_answer(p_session)
    end;
end;
$$;

comment on function payments.attempt_answer(public.payment_checkout_sessions, payments.attempts) is
'A session and one attempt of it, as the bridge needs them. Amounts in minor units.';

revoke all on function payments.attempt_answer(public.payment_checkout_sessions, payments.attempts)
from public, anon, authenticated, service_role;
