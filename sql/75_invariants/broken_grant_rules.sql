create function payments.broken_grant_rules()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'subscription_covers_its_periods', p.user_id::text, p.tier
    from payments.subscription_periods as p
    inner join auth.users as u on p.user_id = u.id
    left join public.payment_subscriptions as s on p.user_id = s.user_id and p.tier = s.tier
    group by p.user_id, p.tier, s.ends_at
    having s.ends_at is null
        or max(p.ends_at) <> s.ends_at
    union all
    select 'fulfilled_subscription_has_a_period', s.id::text, s.terms ->> 'tier'
    from public.payment_checkout_sessions as s
    where s.kind = 'subscription' and s.fulfilment is not null
        and not exists (
            select from payments.subscription_periods as p where p.session_id = s.id and p.user_id = s.user_id
        )
    union all
    select 'group_is_within_its_capacity', g.id::text, format('%s of %s', count(*), g.capacity)
    from public.payment_groups as g
    inner join public.payment_group_members as m on g.id = m.group_id and m.status = 'active'
    group by g.id
    having count(*) > g.capacity or max(m.position) > g.capacity
    union all
    select 'fulfilled_member_holds_a_slot', s.id::text, s.kind
    from public.payment_checkout_sessions as s
    where s.kind in ('group_create', 'group_join') and s.fulfilment_status = 'fulfilled'
        and coalesce(s.review_reason, '') = ''
        and not exists (
            select from public.payment_group_members as m
            where m.session_id = s.id and m.user_id = s.user_id and m.status = 'active'
        )
    union all
    select 'fulfilled_contribution_is_paid', s.id::text, s.subject
    from public.payment_checkout_sessions as s
    where s.kind = 'contribution' and s.fulfilment_status = 'fulfilled'
        and coalesce(s.review_reason, '') = ''
        and not exists (
            select from public.payment_contributions as c
            where c.session_id = s.id and c.user_id = s.user_id and c.status = 'paid'
        );
end;
$$;

comment on function payments.broken_grant_rules() is
'Rules about subscriptions and groups that do not hold.';

revoke all on function payments.broken_grant_rules() from public, anon, authenticated, service_role;
