create function payments.tell_refund(p_refund public.payment_refunds, p_source text, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_refund.status = 'refused' then
        perform payments.review_refund(p_refund, 'refund_exceeds_payment', p_source, p_now);
    elsif p_refund.kind = 'dispute' and p_refund.status <> 'failed' then
        perform payments.review_refund(p_refund, 'dispute_reported', p_source, p_now);
    elsif p_refund.kind = 'dispute' then
        update public.payment_checkout_sessions as s
        set review_reason = payments.drop_reason(s.review_reason, 'dispute_reported'), updated_at = p_now
        where s.id = p_refund.session_id and not exists (
            select from public.payment_refunds as r
            where r.session_id = s.id and r.kind = 'dispute' and r.status in ('pending', 'succeeded')
        );
    elsif p_refund.status = 'succeeded' then
        perform payments.queue_notification(
            s, 'refund', p_refund.provider_refund_id, jsonb_build_object('refund_amount', p_refund.amount), p_now
        )
        from public.payment_checkout_sessions as s
        where s.id = p_refund.session_id;
    end if;
end;
$$;

comment on function payments.tell_refund(public.payment_refunds, text, timestamptz) is
'Tells those whom a refund''s new status concerns: the buyer of money that is back, a person of what needs one. A won '
'dispute needs nobody any more.';

revoke all on function payments.tell_refund(public.payment_refunds, text, timestamptz)
from public, anon, authenticated, service_role;
