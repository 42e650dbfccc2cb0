-- Each guarantee as a question about the data. Constraints make most of the answers impossible; asking anyway is how a
-- restored, hand-edited or half-migrated database is found out.
create function public.check_payment_invariants()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
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
    union all
    select 'money_without_goods_is_in_review', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.fulfilment_status in ('none', 'failed') and s.review_reason is null
    union all
    select 'credits_are_granted_once_per_paid_session', s.id::text, format('%s entries', count(e.source))
    from public.payment_checkout_sessions as s
    left join public.payment_credit_entries as e on e.reason = 'purchase' and e.source = s.id::text
    where s.kind = 'credits' and s.fulfilment_status = 'fulfilled'
    group by s.id
    having count(e.source) <> 1
    union all
    select 'credits_are_granted_for_fulfilled_sessions_only', s.id::text, s.fulfilment_status
    from public.payment_credit_entries as e
    inner join public.payment_checkout_sessions as s on e.source = s.id::text
    where e.reason = 'purchase' and s.fulfilment_status in ('none', 'failed')
    union all
    select 'balance_is_the_sum_of_entries', b.user_id::text, format('balance %s, entries %s', b.balance, coalesce(e.total, 0))
    from public.payment_credit_balances as b
    left join (
        select pe.user_id, sum(pe.amount) as total from public.payment_credit_entries as pe group by pe.user_id
    ) as e on b.user_id = e.user_id
    where b.balance <> coalesce(e.total, 0)
    union all
    select 'entries_have_a_balance', e.user_id::text, format('entries %s', sum(e.amount))
    from public.payment_credit_entries as e
    inner join auth.users as u on e.user_id = u.id
    where not exists (select from public.payment_credit_balances as b where b.user_id = e.user_id)
    group by e.user_id
    union all
    select 'subscription_covers_its_periods', p.user_id::text, p.tier
    from payments.subscription_periods as p
    inner join auth.users as u on p.user_id = u.id
    left join public.payment_subscriptions as s on p.user_id = s.user_id and p.tier = s.tier
    group by p.user_id, p.tier, s.ends_at
    having max(p.ends_at) is distinct from s.ends_at
    union all
    select 'completion_is_in_the_audit_trail', s.id::text, s.status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null
        and not exists (
            select from payments.session_events as e where e.session_id = s.id and e.to_status = 'completed'
        );
end;
$$;

comment on function public.check_payment_invariants() is
'The guarantees that do not hold, one row each: invariant, subject (a session or user id), detail. No rows: healthy. '
'Reads everything: run it at a quiet hour, or on a replica.';

revoke all on function public.check_payment_invariants() from public, anon, authenticated, service_role;
grant execute on function public.check_payment_invariants() to service_role;
