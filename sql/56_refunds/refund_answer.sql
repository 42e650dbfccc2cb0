create function payments.refund_answer(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select jsonb_build_object(
            'refundable_amount', payments.refundable_amount(p_session),
            'refund_count', count(*),
            'refund_under_way', min(r.provider_refund_id) filter (where r.kind = 'refund' and r.status = 'pending'),
            'refund_statuses', coalesce(jsonb_object_agg(r.provider_refund_id, r.status), '{}')
        )
        from public.payment_refunds as r
        where r.session_id = p_session.id
    );
end;
$$;

comment on function payments.refund_answer(public.payment_checkout_sessions) is
'What the bridge needs to know before it asks for a refund. Amounts in minor units.';

revoke all on function payments.refund_answer(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
