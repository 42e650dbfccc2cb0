-- From the documents, so that a refund counts on its own day and the numbers agree with the accounts.
create view public.payment_daily_revenue with (security_invoker = true) as
select
    i.product_id,
    i.provider,
    i.currency,
    (i.issued_at at time zone 'UTC')::date as day,
    count(*) filter (where i.kind = 'invoice') as sales,
    coalesce(sum(i.amount) filter (where i.kind = 'invoice'), 0) as sold,
    -coalesce(sum(i.amount) filter (where i.kind <> 'invoice'), 0) as refunded,
    sum(i.amount) as revenue
from public.payment_invoices as i
group by 1, 2, 3, 4;

comment on view public.payment_daily_revenue is
'For BI tools: sales, refunds and revenue per day (UTC), product, provider and currency, in minor units.';

revoke all on table public.payment_daily_revenue from public, anon, authenticated, service_role;
grant select on table public.payment_daily_revenue to service_role;
