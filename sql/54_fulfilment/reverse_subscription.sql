-- A full refund takes what is left of the period that the purchase added; periods bought later move forward, so that
-- the buyer keeps all of what is still paid for. A partial refund takes nothing. Undone, the time is given back at the
-- end.
create function payments.reverse_subscription(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_subscription public.payment_subscriptions;
    v_period payments.subscription_periods;
    v_cut interval;
    v_ends_at timestamptz;
begin
    select s.* into v_subscription
    from public.payment_subscriptions as s
    where s.user_id = p_session.user_id and s.tier = p_session.terms ->> 'tier'
    for no key update;
    select p.* into strict v_period from payments.subscription_periods as p where p.session_id = p_session.id;
    v_ends_at := v_subscription.ends_at;
    if p_share = 1 and v_period.cut is null then
        -- in seconds: days have 23 or 25 hours in some time zones
        v_cut := extract(epoch from v_period.ends_at - least(greatest(v_period.starts_at, now()), v_period.ends_at))
            * interval '1 second';
        v_ends_at := v_subscription.ends_at - v_cut;
        update payments.subscription_periods as p
        set starts_at = case when p.session_id = p_session.id then p.starts_at else p.starts_at - v_cut end,
            ends_at = p.ends_at - v_cut,
            cut = case when p.session_id = p_session.id then v_cut else p.cut end
        where p.user_id = p_session.user_id
            and p.tier = v_subscription.tier
            and (p.session_id = p_session.id or p.starts_at >= v_period.ends_at);
    elsif p_share < 1 and v_period.cut = interval '0' then
        update payments.subscription_periods as p set cut = null where p.session_id = p_session.id;
    elsif p_share < 1 and v_period.cut is not null then
        v_ends_at := greatest(v_subscription.ends_at, now()) + v_period.cut;
        update payments.subscription_periods as p
        set starts_at = v_ends_at - v_period.cut, ends_at = v_ends_at, cut = null
        where p.session_id = p_session.id;
    end if;
    update public.payment_subscriptions as s
    set ends_at = v_ends_at, updated_at = now()
    where s.user_id = p_session.user_id and s.tier = v_subscription.tier and s.ends_at <> v_ends_at;
    return jsonb_build_object('share', p_share, 'ends_at', v_ends_at);
end;
$$;

comment on function payments.reverse_subscription(public.payment_checkout_sessions, numeric) is
'Ends the period that a session added when its share is 1, and restores it when it is less again. Answers {share, '
'ends_at}.';

revoke all on function payments.reverse_subscription(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;
