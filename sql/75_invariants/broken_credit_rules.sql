create function payments.broken_credit_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'credits_are_granted_once_per_paid_session', s.id::text, format('%s entries', count(e.source))
    from public.payment_checkout_sessions as s
    left join public.payment_credit_entries as e
        on e.reason = 'purchase' and e.source = s.id::text
        and e.user_id = s.user_id and e.amount = (s.terms ->> 'credits')::bigint
    where s.kind = 'credits' and s.fulfilment is not null
    group by s.id
    having count(e.source) <> 1
    union all
    select 'credits_are_granted_for_fulfilled_sessions_only', s.id::text, s.fulfilment_status
    from public.payment_credit_entries as e
    inner join public.payment_checkout_sessions as s on e.source = s.id::text
    where e.reason = 'purchase' and s.fulfilment is null
    union all
    select 'balance_is_the_sum_of_entries', b.user_id::text, format('balance %s, entries %s', b.balance, coalesce(e.total, 0))
    from public.payment_credit_balances as b
    left join (
        select pe.user_id, sum(pe.amount) as total from public.payment_credit_entries as pe group by pe.user_id
    ) as e on b.user_id = e.user_id
    where b.balance <> coalesce(e.total, 0) or b.balance < 0
    union all
    select 'entries_have_a_balance', e.user_id::text, format('entries %s', sum(e.amount))
    from public.payment_credit_entries as e
    inner join auth.users as u on e.user_id = u.id
    where not exists (select from public.payment_credit_balances as b where b.user_id = e.user_id)
    group by e.user_id
    union all
    select 'clawbacks_match_their_entries', c.session_id::text, format('taken %s, entries %s', c.taken, coalesce(-sum(e.amount), 0))
    from payments.credit_clawbacks as c
    left join public.payment_credit_entries as e
        on e.user_id = c.user_id
        and e.reason in ('clawback', 'reinstatement')
        and split_part(e.source, ':', 1) = c.session_id::text
    group by c.session_id
    having c.taken <> coalesce(-sum(e.amount), 0);
end;
$$;

comment on function payments.broken_credit_rules() is
'Rules about credits that do not hold.';

revoke all on function payments.broken_credit_rules() from public, anon, authenticated, service_role;
