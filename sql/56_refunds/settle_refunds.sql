-- Brings a locked session in line with its refunds, whatever order they came in: the sum decides, so a replay changes
-- nothing and a refund that fails later gives everything back.
create function payments.settle_refunds(
    p_session public.payment_checkout_sessions,
    p_source text,
    p_occurred_at timestamptz,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_refunded bigint;
    v_change bigint;
    v_status text;
    v_result payments.grant_result;
begin
    -- what a refund takes back never changes, whatever is paid later
    update public.payment_refunds as r
    set provider_payment_id = (payments.capture_of_refund(r)).provider_payment_id
    where r.session_id = p_session.id
        and r.provider_payment_id is null
        and (payments.capture_of_refund(r)).provider_payment_id is not null;
    v_session := payments.resolve_returned_money(p_session, p_source, p_now);
    v_refunded := payments.refunded_of_session(v_session);
    v_change := v_refunded - v_session.refunded_amount;
    v_status := case v_refunded
        when 0 then 'completed' when v_session.amount then 'refunded' else 'partially_refunded'
    end;
    if v_change = 0 then
        return v_session;
    end if;
    -- lock order: the coupon before what the reversal locks
    if v_status = 'refunded' and (select t.coupon_returns_on_refund from payments.settings as t) then
        perform payments.release_coupon(v_session.id, 'confirmed', p_now);
    elsif v_session.status = 'refunded' and v_session.coupon_id is not null then
        perform payments.confirm_coupon(v_session, p_now);
    end if;
    v_result := payments.reverse_fulfilment(v_session, v_refunded::numeric(60, 40) / v_session.amount);
    update public.payment_checkout_sessions as s
    set refunded_amount = v_refunded, status = v_status, updated_at = p_now
    where s.id = v_session.id;
    perform payments.add_session_event(
        v_session.id, v_session.status, v_status, p_source, 'refunds_changed', p_occurred_at, p_now, v_result.detail
    );
    v_session := payments.note_fulfilment(v_session.id, v_result, p_now);
    perform payments.issue_document(
        case when v_change > 0 then 'credit_note' else 'correction' end, v_session, -v_change, p_now
    );
    return v_session;
end;
$$;

comment on function payments.settle_refunds(
    public.payment_checkout_sessions, text, timestamptz, timestamptz
) is
'Sets refunded_amount and the status, takes the purchase back in proportion, and issues a credit note for the change '
'(or a correction, when a refund failed later).';

revoke all on function payments.settle_refunds(
    public.payment_checkout_sessions, text, timestamptz, timestamptz
) from public, anon, authenticated, service_role;
