-- A second payment, the wrong money or an overpayment needs nobody any more once it has gone back.
create function payments.resolve_returned_money(
    p_session public.payment_checkout_sessions,
    p_source text,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions := p_session;
    v_returned text[] := array['duplicate_payment', 'amount_mismatch', 'currency_mismatch', 'overpaid'];
    v_capture payments.captures;
    v_back numeric;
    v_reason text;
begin
    for v_capture in select c.* from payments.captures as c where c.session_id = p_session.id loop
        v_back := payments.refunded_of_capture(v_capture, array['succeeded']);
        v_reason := payments.trouble_of_capture(v_capture, p_session);
        if v_back < v_capture.amount - (case v_reason when 'overpaid' then p_session.amount else 0 end) then
            v_returned := array_remove(v_returned, v_reason);
            -- its refund failed later
            if payments.add_reason(v_session.review_reason, v_reason) is distinct from v_session.review_reason
                and exists (
                    select from public.payment_refunds as r
                    where r.session_id = p_session.id
                        and r.provider = v_capture.provider
                        and (payments.capture_of_refund(r)).provider_payment_id = v_capture.provider_payment_id
                        and r.status = 'failed'
                        and r.updated_at = p_now
                )
            then
                v_session := payments.flag_session(v_session, v_reason, p_source, null, p_now);
            end if;
        end if;
        if v_back > v_capture.amount -- it was refunded before we knew what had been paid
            and payments.add_reason(v_session.review_reason, 'refund_exceeds_payment')
                is distinct from v_session.review_reason
        then
            v_session := payments.flag_session(v_session, 'refund_exceeds_payment', p_source, null, p_now);
        end if;
    end loop;
    if string_to_array(v_session.review_reason, ', ') && v_returned then
        foreach v_reason in array v_returned loop
            v_session.review_reason := payments.drop_reason(v_session.review_reason, v_reason);
        end loop;
        update public.payment_checkout_sessions as s
        set review_reason = v_session.review_reason, updated_at = p_now
        where s.id = p_session.id;
    end if;
    return v_session;
end;
$$;

comment on function payments.resolve_returned_money(public.payment_checkout_sessions, text, timestamptz) is
'Drops the review reasons whose money has gone back in full.';

revoke all on function payments.resolve_returned_money(public.payment_checkout_sessions, text, timestamptz)
from public, anon, authenticated, service_role;
