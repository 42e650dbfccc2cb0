create function payments.broken_session_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'one_open_session_per_purchase', s.user_id::text, s.product_id || coalesce(' ' || s.subject, '')
    from public.payment_checkout_sessions as s
    where s.status in ('pending', 'processing')
    group by s.user_id, s.product_id, s.subject
    having count(*) > 1
    union all
    select 'paid_session_has_one_settled_capture', s.id::text, format('%s settled captures', count(c.session_id))
    from public.payment_checkout_sessions as s
    left join payments.captures as c on s.id = c.session_id and c.disposition = 'settled'
    where s.completed_at is not null and s.amount > 0
    group by s.id
    having count(c.session_id) <> 1
    union all
    select 'settled_capture_completes_its_session', c.session_id::text, c.provider || ' ' || c.provider_payment_id
    from payments.captures as c
    inner join public.payment_checkout_sessions as s on c.session_id = s.id
    where c.disposition = 'settled' and s.completed_at is null
    union all
    select 'settled_capture_pays_the_price', c.session_id::text,
        format('%s %s due, %s %s captured', s.amount, s.currency, c.amount, c.currency)
    from payments.captures as c
    inner join public.payment_checkout_sessions as s on c.session_id = s.id
    where c.disposition = 'settled'
        and (c.amount < s.amount or c.currency <> s.currency)
        and s.review_reason is null
        and s.status <> 'refunded'
        and not payments.was_reviewed(s.id, 'amount_mismatch')
        and not payments.was_reviewed(s.id, 'currency_mismatch')
    union all
    select 'money_without_goods_is_in_review', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.fulfilment_status in ('none', 'failed') and s.review_reason is null
        and not payments.was_reviewed(s.id, 'fulfilment_failed')
    union all
    select 'unsettled_money_was_flagged', c.session_id::text, c.disposition
    from payments.captures as c
    where c.disposition in ('duplicate', 'amount_mismatch', 'currency_mismatch')
        and not exists (
            select from payments.session_events as e
            where e.session_id = c.session_id
                and e.reason = case c.disposition when 'duplicate' then 'duplicate_payment' else c.disposition end
        )
    union all
    select 'completion_is_in_the_audit_trail', s.id::text, s.status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null
        and not exists (
            select from payments.session_events as e where e.session_id = s.id and e.to_status = 'completed'
        );
end;
$$;

comment on function payments.broken_session_rules() is
'Rules about sessions, captures and the audit trail that do not hold.';

revoke all on function payments.broken_session_rules() from public, anon, authenticated, service_role;
