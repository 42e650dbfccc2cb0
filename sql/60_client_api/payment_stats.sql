create function public.payment_stats()
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(null);
begin
    return jsonb_build_object(
        'spent', (
            select coalesce(jsonb_object_agg(paid.currency, paid.amount), '{}')
            from (
                select s.currency, sum(s.amount - s.refunded_amount) as amount
                from public.payment_checkout_sessions as s
                where s.user_id = v_user_id and s.completed_at is not null
                group by s.currency
            ) as paid
        ),
        'credits_bought', (
            select coalesce(sum(e.amount), 0)
            from public.payment_credit_entries as e
            where e.user_id = v_user_id and e.reason = 'purchase'
        ),
        'payments_by_status', (
            select coalesce(jsonb_object_agg(counted.status, counted.number), '{}')
            from (
                select s.status, count(*) as number
                from public.payment_checkout_sessions as s
                where s.user_id = v_user_id
                group by s.status
            ) as counted
        )
    );
end;
$$;

comment on function public.payment_stats() is
'The signed-in user''s totals: {spent: {currency: minor units, refunds deducted}, credits_bought, payments_by_status}. '
'Raises PT401 not_signed_in, PT422 user_required.';

revoke all on function public.payment_stats() from public, anon, authenticated, service_role;
grant execute on function public.payment_stats() to authenticated, service_role;
