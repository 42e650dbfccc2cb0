create function payments.fulfil_subscription(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_tier text := p_session.terms ->> 'tier';
    v_period interval := (p_session.terms ->> 'period')::interval;
    v_starts_at timestamptz;
    v_ends_at timestamptz;
begin
    insert into public.payment_subscriptions (user_id, tier, started_at, ends_at, updated_at)
    values (p_session.user_id, v_tier, now(), now(), now())
    on conflict (user_id, tier) do nothing;
    select greatest(s.ends_at, now()) into v_starts_at
    from public.payment_subscriptions as s
    where s.user_id = p_session.user_id and s.tier = v_tier
    for no key update;
    v_ends_at := v_starts_at + v_period;
    update public.payment_subscriptions as s
    set started_at = case when s.ends_at > now() then s.started_at else now() end,
        ends_at = v_ends_at,
        updated_at = now()
    where s.user_id = p_session.user_id and s.tier = v_tier;
    insert into payments.subscription_periods (session_id, user_id, tier, starts_at, ends_at, created_at)
    values (p_session.id, p_session.user_id, v_tier, v_starts_at, v_ends_at, now());
    return jsonb_build_object('kind', 'subscription', 'tier', v_tier, 'ends_at', v_ends_at);
end;
$$;

comment on function payments.fulfil_subscription(public.payment_checkout_sessions) is
'Starts or extends the buyer''s tier by terms.period, once per session. Answers {kind, tier, ends_at}.';

revoke all on function payments.fulfil_subscription(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;
