create view public.payment_daily_conversion with (security_invoker = true) as
select
    s.product_id,
    s.provider,
    (s.created_at at time zone 'UTC')::date as day,
    count(*) as created,
    count(s.completed_at) as completed,
    count(*) filter (where s.status = 'expired') as expired,
    count(*) filter (where s.status = 'failed') as failed,
    count(*) filter (where s.status = 'cancelled') as cancelled,
    round(count(s.completed_at)::numeric / count(*), 4) as conversion_rate
from public.payment_checkout_sessions as s
group by 1, 2, 3;

comment on view public.payment_daily_conversion is
'For BI tools: what became of the sessions of each day (UTC), per product and provider.';

revoke all on table public.payment_daily_conversion from public, anon, authenticated, service_role;
grant select on table public.payment_daily_conversion to service_role;
