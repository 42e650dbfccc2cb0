-- What the shop of tests/bench/fill.sql has few of, so that every table is worth an index. As superuser, once.
set local session_replication_role = replica;

insert into public.payment_products (id, kind, name, terms)
select
    'thing_' || n, case n when 1 then 'contribution' when 2 then 'group_join' else 'none' end, 'A thing', '{}'
from generate_series(1, 3000) as n;
insert into public.payment_prices (product_id, currency, amount, is_default)
select 'thing_' || n, c.currency, 500, c.currency = 'USD'
from generate_series(1, 3000) as n cross join (values ('USD'), ('ILS')) as c (currency);

insert into payments.coupons (id, percent_off, max_redemptions, max_redemptions_per_user, places_taken)
select 'C' || n, 10, 1, 1, 1 from generate_series(1, 3000) as n;
insert into payments.coupon_currencies (coupon_id, currency, minimum_amount)
select 'C' || n, 'USD', 1 from generate_series(1, 3000) as n;
insert into payments.coupon_redemptions (session_id, coupon_id, user_id, status, holds_place, created_at, updated_at)
select
    gen_random_uuid(), 'C' || n, md5('buyer ' || n % 900)::uuid, case when n <= 30 then 'released' else 'confirmed' end,
    true, now(), now()
from generate_series(1, 3000) as n;

insert into public.payment_groups (
    id, name, created_by, capacity, contribution_product_id, join_product_id, cycle, created_at
)
select md5('group ' || n)::uuid, 'A circle', md5('buyer ' || n)::uuid, 12, 'thing_1', 'thing_2', '1 month', now()
from generate_series(1, 900) as n;
insert into public.payment_group_members (
    group_id, user_id, position, status, session_id, security_deposit, currency, joined_at, updated_at
)
select md5('group ' || n)::uuid, md5('buyer ' || n + p)::uuid, p, 'active', gen_random_uuid(), 0, 'USD', now(), now()
from generate_series(1, 900) as n cross join generate_series(1, 3) as p;
insert into public.payment_contributions (
    group_id, user_id, cycle, status, session_id, amount, currency, paid_at, updated_at
)
select m.group_id, m.user_id, 1, 'paid', gen_random_uuid(), 500, 'USD', now(), now()
from public.payment_group_members as m;

insert into public.payment_subscriptions (user_id, tier, started_at, ends_at, updated_at)
select md5('buyer ' || n)::uuid, 'pro', now(), now() + interval '1 month', now() from generate_series(1, 900) as n;
insert into payments.subscription_periods (session_id, user_id, tier, starts_at, ends_at, created_at)
select gen_random_uuid(), md5('buyer ' || n)::uuid, 'pro', now(), now() + interval '1 month', now()
from generate_series(1, 3000) as n;
insert into public.payment_refunds (
    provider, provider_refund_id, session_id, user_id, kind, amount, currency, status, created_at, updated_at
)
select 'stripe', 'old ' || n, gen_random_uuid(), md5('buyer ' || n % 900)::uuid, 'refund', 1, 'USD', 'succeeded', now(), now()
from generate_series(1, 3000) as n;

insert into payments.rate_limits (user_id, action, window_started_at, calls)
select md5('buyer ' || n)::uuid, 'create', now() - interval '1 day', 1 from generate_series(1, 900) as n;
insert into payments.idempotency_keys (key, request_hash, status, leased_until, created_at, updated_at)
select 'key ' || n, 'h', 'completed', now(), now(), now() from generate_series(1, 3000) as n;

insert into payments.alerts (kind, subject, detail, opened_at, seen_at, closed_at, due_at, told_at)
select 'stale_heartbeat', 'worker ' || n, 'Gone.', now(), now(), now(), now(), now() from generate_series(1, 3000) as n;
insert into payments.alerts (kind, subject, detail, opened_at, seen_at, due_at)
select 'dead_letters', 'receipt ' || n, 'Lost.', now(), now(), now() from generate_series(1, 3) as n;
insert into payments.troubles (kind, subject, minute, times)
select 'failed_verifications', 'stripe', date_trunc('minute', now()) - n * interval '1 minute', 1
from generate_series(1, 3000) as n;
insert into payments.heartbeats (name, beat_at) select 'worker ' || n, now() from generate_series(1, 3000) as n;

update payments.notifications set status = 'dead' where id % 1000 = 1;
update payments.notifications set status = 'queued', due_at = now() where id % 1000 = 2;
update payments.notifications set kind = 'reminder', occurrence = '1' where id % 100 = 3;
update payments.webhook_events set status = 'dead', error = 'price_mismatch', handled_at = null
where event_id in (select e.event_id from payments.webhook_events as e limit 5);
update payments.captures set disposition = 'orphaned'
where provider_payment_id in (select c.provider_payment_id from payments.captures as c limit 5);
update payments.attempts set reconcile_at = now() where number in (
    select a.number from payments.attempts as a where a.reconcile_at is not null limit 5
);
update public.payment_checkout_sessions set idempotency_key = 'once ' || current_attempt where current_attempt % 10 = 0;
update public.payment_checkout_sessions set review_reason = 'overpaid' where current_attempt % 1000 = 1;
