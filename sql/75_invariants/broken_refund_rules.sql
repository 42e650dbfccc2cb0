create function payments.broken_refund_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'refunded_amount_is_what_refunds_add_up_to', s.id::text,
        format('%s stated, %s refunded', s.refunded_amount, payments.refunded_of_session(s))
    from public.payment_checkout_sessions as s
    where (s.refunded_amount > 0 or exists (select from public.payment_refunds as r where r.session_id = s.id))
        and s.completed_at is not null
        and s.refunded_amount <> payments.refunded_of_session(s)
    union all
    select 'status_follows_the_refunded_amount', s.id::text, format('%s, %s of %s', s.status, s.refunded_amount, s.amount)
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.status <> case
        when s.refunded_amount = 0 then 'completed'
        when s.refunded_amount = s.amount then 'refunded'
        else 'partially_refunded'
    end
    union all
    select 'refunded_purchase_is_taken_back', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.review_reason is null
        and (s.status = 'refunded' and s.fulfilment_status <> 'reversed'
            or s.status in ('completed', 'partially_refunded') and s.fulfilment_status = 'reversed')
        and not payments.was_reviewed(s.id, 'reversal_failed')
    union all
    select 'documents_add_up_to_what_was_kept', s.id::text, format('%s kept', s.amount - s.refunded_amount)
    from public.payment_checkout_sessions as s
    left join ( -- there may be many when numbering has stopped, and no index finds them by session
        select u.document ->> 'session_id' as session_id, sum((u.document ->> 'amount')::bigint) as amount
        from payments.unnumbered_invoices as u
        group by 1
    ) as unnumbered on s.id::text = unnumbered.session_id
    where s.completed_at is not null and s.amount - s.refunded_amount <> coalesce(unnumbered.amount, 0) + (
        select coalesce(sum(i.amount), 0)
        from public.payment_invoices as i
        where i.session_id = s.id
    )
    union all
    select 'document_numbers_have_no_gaps', i.series || '-' || i.year, format('%s documents, last %s', count(*), max(i.number))
    from public.payment_invoices as i
    -- the series that are numbered here: a user who was moved brings documents of another database's along
    inner join payments.invoice_counters as c on i.series = c.series and i.year = c.year
    group by i.series, i.year
    having count(*) <> max(i.number) or min(i.number) <> 1;
end;
$$;

comment on function payments.broken_refund_rules() is
'Rules about refunds and documents that do not hold.';

revoke all on function payments.broken_refund_rules() from public, anon, authenticated, service_role;
