create view public.payment_open_reviews with (security_invoker = true) as
select
    s.id as session_id,
    s.review_reason,
    s.status,
    s.fulfilment_status,
    s.user_id,
    s.product_id,
    s.provider,
    s.provider_payment_id,
    s.amount,
    s.refunded_amount,
    s.currency,
    s.created_at,
    s.updated_at
from public.payment_checkout_sessions as s
where s.review_reason is not null;

comment on view public.payment_open_reviews is 'For BI tools and operators: sessions that a person must look at.';

revoke all on table public.payment_open_reviews from public, anon, authenticated, service_role;
grant select on table public.payment_open_reviews to service_role;
