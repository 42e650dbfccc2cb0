create function public.refund_checkout_session(
    p_session_id uuid,
    p_provider_refund_id text,
    p_amount bigint,
    p_status text default 'succeeded',
    p_reason text default null
)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_refund public.payment_refunds;
begin
    perform payments.require_service();
    if coalesce(length(p_provider_refund_id), 0) not between 1 and 255
        or coalesce(p_amount, 0) <= 0
        or p_status is null or p_status not in ('pending', 'succeeded', 'failed')
    then
        raise exception 'p_provider_refund_id (1 to 255 characters), a positive p_amount and a known p_status are needed.'
            using errcode = 'PT422', detail = 'invalid_input',
            hint = 'Pass minor units; p_status is pending, succeeded or failed.';
    end if;
    v_session := payments.lock_session(p_session_id);
    v_refund.provider := v_session.provider;
    v_refund.provider_refund_id := p_provider_refund_id;
    v_refund.session_id := v_session.id;
    v_refund.user_id := v_session.user_id;
    v_refund.kind := 'refund';
    v_refund.amount := p_amount;
    v_refund.currency := v_session.currency;
    v_refund.status := p_status;
    v_refund.reason := left(p_reason, 500);
    if payments.capture_of_refund(v_refund) is null then
        raise exception 'No money of this session is known: it is %.', v_session.status
            using errcode = 'PT409', detail = 'nothing_to_refund', hint = 'Complete the session first.';
    end if;
    perform payments.record_refund(v_refund, 'admin', now());
    v_session := payments.settle_refunds(payments.session_by_id(p_session_id), 'admin', null, now());
    return payments.session_answer(v_session, v_session.completed_at is not null)
        || jsonb_build_object('refunded_amount', v_session.refunded_amount);
end;
$$;

comment on function public.refund_checkout_session(uuid, text, bigint, text, text) is
'Records a refund of a session''s payment (minor units), once per p_provider_refund_id; the purchase is taken back in '
'proportion. More than was paid is refused and put in review. Answers what complete_checkout_session answers, and '
'refunded_amount. Raises PT404 session_not_found, PT409 nothing_to_refund, PT422 invalid_input, PT503 try_again.';

revoke all on function public.refund_checkout_session(uuid, text, bigint, text, text)
from public, anon, authenticated, service_role;
grant execute on function public.refund_checkout_session(uuid, text, bigint, text, text) to service_role;
