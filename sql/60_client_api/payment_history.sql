create function public.payment_history(p_page int default 1, p_page_size int default 20, p_status text default null)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(null);
    v_total bigint;
    v_payments jsonb;
begin
    if p_status <> all(array[
        'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
    ]) then
        raise exception 'There is no status %.', quote_literal(left(p_status, 64))
            using errcode = 'PT422', detail = 'invalid_input', hint = 'p_status is a state of docs/states.md, or left out.';
    end if;
    if p_page is null or p_page not between 1 and 1000000 or p_page_size is null or p_page_size not between 1 and 100 then
        raise exception 'p_page starts at 1, p_page_size is 1 to 100.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Ask for the next page instead of a larger one.';
    end if;
    select count(*) into v_total
    from public.payment_checkout_sessions as s
    where s.user_id = v_user_id and (p_status is null or s.status = p_status);
    select coalesce(jsonb_agg(to_jsonb(page) order by page.id desc), '[]') into v_payments
    from (
        select
            s.id, s.product_id, s.subject, s.status, s.fulfilment_status, s.fulfilment, s.provider, s.currency,
            s.original_amount, s.discount_amount, s.amount, s.refunded_amount, s.created_at, s.completed_at, s.expires_at
        from public.payment_checkout_sessions as s
        where s.user_id = v_user_id and (p_status is null or s.status = p_status)
        order by s.id desc
        limit p_page_size
        offset (p_page - 1)::bigint * p_page_size
    ) as page;
    return jsonb_build_object(
        'payments', v_payments,
        'total_count', v_total,
        'page', p_page,
        'page_size', p_page_size,
        'has_more', p_page::bigint * p_page_size < v_total
    );
end;
$$;

comment on function public.payment_history(int, int, text) is
'The signed-in user''s checkout sessions, newest first, amounts in minor units: {payments, total_count, page, '
'page_size, has_more}. Raises PT401 not_signed_in, PT422 invalid_input, user_required.';

revoke all on function public.payment_history(int, int, text) from public, anon, authenticated, service_role;
grant execute on function public.payment_history(int, int, text) to authenticated, service_role;
