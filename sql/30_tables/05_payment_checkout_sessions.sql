create table public.payment_checkout_sessions (
    id uuid primary key,
    user_id uuid not null references auth.users (id) on delete cascade,
    email text,
    product_id text not null references public.payment_products (id),
    kind text not null,
    terms jsonb not null,
    subject text,
    provider text not null,
    currency text not null,
    original_amount bigint not null,
    discount_amount bigint not null default 0,
    amount bigint not null,
    coupon_id text,
    status text not null default 'pending',
    fulfilment_status text not null default 'none',
    fulfilment jsonb,
    provider_session_id text,
    provider_payment_id text,
    provider_customer_id text,
    checkout_url text,
    attempts int not null default 0,
    current_attempt bigint,
    idempotency_key text,
    idempotency_fingerprint text,
    refunded_amount bigint not null default 0,
    review_reason text,
    error_code text,
    error_message text,
    metadata jsonb not null default '{}',
    created_at timestamptz not null,
    updated_at timestamptz not null,
    expires_at timestamptz not null,
    completed_at timestamptz
) with (fillfactor = 80);

comment on table public.payment_checkout_sessions is
'One intent of one user to buy one product for one subject. Amounts are in minor units of the currency.';
comment on column public.payment_checkout_sessions.subject is
'What the purchase is for when the product alone does not say: a group, a contribution cycle.';
comment on column public.payment_checkout_sessions.terms is 'What the product promised when the session was made.';
comment on column public.payment_checkout_sessions.attempts is 'How many provider pages were opened for it.';
comment on column public.payment_checkout_sessions.current_attempt is
'Number of the attempt whose failure or expiry speaks for the session (payments.attempts).';
comment on column public.payment_checkout_sessions.fulfilment is 'What fulfilment gave, as its handler answered.';
comment on column public.payment_checkout_sessions.review_reason is
'Set when a person must look at the session; several reasons are separated by commas (docs/states.md).';

-- Guarantee 1. Reader: get_or_create_checkout_session.
create unique index payment_checkout_sessions_one_open_per_purchase
on public.payment_checkout_sessions (user_id, product_id, subject) nulls not distinct
where status in ('pending', 'processing');

-- Reader: expire_old_checkout_sessions. The second condition, always true, keeps the planner from reading this whole
-- index where it looks for one purchase.
create index payment_checkout_sessions_due
on public.payment_checkout_sessions (expires_at)
where status in ('pending', 'processing') and expires_at > '-infinity';

-- Readers: get_latest_checkout_session (ids are time-ordered), RLS, the cascade from auth.users.
create index payment_checkout_sessions_by_user on public.payment_checkout_sessions (user_id, id);

-- Readers: payment_health, payment_open_reviews.
create index payment_checkout_sessions_in_review on public.payment_checkout_sessions (id)
where review_reason is not null;

-- Reader: list_checkout_sessions. Purchases never enter it: they go from pending to completed.
create index payment_checkout_sessions_by_ending on public.payment_checkout_sessions (status, id)
where status in ('failed', 'expired', 'cancelled', 'refunded', 'partially_refunded');

create unique index payment_checkout_sessions_one_per_idempotency_key
on public.payment_checkout_sessions (user_id, idempotency_key)
where idempotency_key is not null;

create trigger guard_session
before insert or update on public.payment_checkout_sessions
for each row
execute function payments.guard_session();

alter table public.payment_checkout_sessions enable row level security;
revoke all on table public.payment_checkout_sessions from public, anon, authenticated, service_role;
grant select on table public.payment_checkout_sessions to authenticated, service_role;

create policy payment_checkout_sessions_are_read_by_their_user on public.payment_checkout_sessions
for select to authenticated
using (user_id = (select auth.uid()));
