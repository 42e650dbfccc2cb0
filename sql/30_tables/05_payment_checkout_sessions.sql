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
    completed_at timestamptz,
    constraint payment_checkout_sessions_status_is_known check (
        status in (
            'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
        )
    ),
    constraint payment_checkout_sessions_fulfilment_status_is_known check (
        fulfilment_status in ('none', 'fulfilled', 'failed', 'reversed')
    ),
    constraint payment_checkout_sessions_fulfil_only_what_is_paid check (
        fulfilment_status = 'none' or status in ('completed', 'partially_refunded', 'refunded')
    ),
    constraint payment_checkout_sessions_paid_ones_have_a_time check (
        (completed_at is not null) = (status in ('completed', 'partially_refunded', 'refunded'))
    ),
    constraint payment_checkout_sessions_currency_is_an_iso_code check (currency ~ '^[A-Z]{3}$'),
    constraint payment_checkout_sessions_amounts_add_up check (
        amount >= 0 and discount_amount >= 0 and amount = original_amount - discount_amount
    ),
    constraint payment_checkout_sessions_refund_only_what_is_paid check (
        refunded_amount between 0 and amount
    ),
    constraint payment_checkout_sessions_store_the_attempt_before_its_page check (
        checkout_url is null or current_attempt is not null
    ),
    constraint payment_checkout_sessions_texts_are_short check (
        length(subject) <= 200 and length(email) <= 320 and length(idempotency_key) <= 255
        and octet_length(metadata::text) <= 8192
    )
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

-- Readers: expire_old_checkout_sessions.
create index payment_checkout_sessions_due
on public.payment_checkout_sessions (expires_at)
where status in ('pending', 'processing');

-- Readers: get_latest_checkout_session (ids are time-ordered), RLS, the cascade from auth.users.
create index payment_checkout_sessions_by_user on public.payment_checkout_sessions (user_id, id);

-- Readers: payment_health, payment_open_reviews.
create index payment_checkout_sessions_in_review on public.payment_checkout_sessions (id)
where review_reason is not null;

create unique index payment_checkout_sessions_one_per_idempotency_key
on public.payment_checkout_sessions (user_id, idempotency_key)
where idempotency_key is not null;

create trigger guard_session_status
before update of status on public.payment_checkout_sessions
for each row
when (old.status is distinct from new.status)
execute function payments.guard_session_status();

alter table public.payment_checkout_sessions enable row level security;
revoke all on table public.payment_checkout_sessions from public, anon, authenticated, service_role;
grant select on table public.payment_checkout_sessions to authenticated, service_role;

create policy payment_checkout_sessions_are_read_by_their_user on public.payment_checkout_sessions
for select to authenticated
using (user_id = (select auth.uid()));
