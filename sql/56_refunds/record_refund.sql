-- One row per refund of the provider; its status only advances, so that news which overtook each other end the same.
-- The caller holds the session's lock.
create function payments.record_refund(p_refund public.payment_refunds, p_source text, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_refund public.payment_refunds := p_refund;
    v_known public.payment_refunds;
    v_order text[] := array['pending', 'succeeded', 'failed'];
begin
    select r.* into v_known
    from public.payment_refunds as r
    where r.provider = p_refund.provider and r.provider_refund_id = p_refund.provider_refund_id
    for no key update;
    if v_known.status is null then
        if payments.exceeds_payment(p_refund) then
            v_refund.status := 'refused';
        end if;
        v_refund.currency := coalesce((payments.capture_of_refund(p_refund)).currency, p_refund.currency);
        v_refund.created_at := p_now;
        v_refund.updated_at := p_now;
        insert into public.payment_refunds select v_refund.* on conflict do nothing;
        if not found then
            raise exception 'This refund is being recorded by another call.'
                using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
        end if;
    elsif v_known.session_id <> p_refund.session_id
        -- what is disputed can change until the bank decides
        or v_known.amount <> p_refund.amount and (v_known.kind, v_known.status) <> ('dispute', 'pending')
    then
        perform payments.review_refund(v_refund, 'refund_conflict', p_source, p_now);
        return;
    elsif array_position(v_order, v_known.status) < array_position(v_order, p_refund.status)
        -- an earlier refund failed and left room for this one
        or v_known.status = 'refused' and payments.exceeds_payment(p_refund) is false
        -- what it says has changed: a bank wants details, another amount is disputed
        or v_known.status = p_refund.status
        and (v_known.amount, v_known.reason) is distinct from (p_refund.amount, coalesce(p_refund.reason, v_known.reason))
    then
        update public.payment_refunds as r
        set status = p_refund.status, amount = p_refund.amount, reason = coalesce(p_refund.reason, r.reason), updated_at = p_now
        where r.provider = p_refund.provider and r.provider_refund_id = p_refund.provider_refund_id
        returning r.* into v_refund;
    else
        return;
    end if;
    perform payments.tell_refund(v_refund, p_source, p_now);
end;
$$;

comment on function payments.record_refund(public.payment_refunds, text, timestamptz) is
'Records what is new about a refund; a replay, or older news, changes nothing. Raises PT503 try_again.';

revoke all on function payments.record_refund(public.payment_refunds, text, timestamptz)
from public, anon, authenticated, service_role;
