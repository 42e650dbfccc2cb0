-- Purpose: the engine's schema, its primitives, tables and types.
-- Locks:   SHARE ROW EXCLUSIVE on auth.users while foreign keys to it are added: sign-ups wait for milliseconds.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

-- The engine's own schema. PostgREST must never expose it: clients reach it only through the functions of `public`.
create schema payments;

comment on schema payments is
'pgcheckout engine: internal tables and functions. Never expose this schema through the API.';

revoke all on schema payments from public, anon, authenticated, service_role;
grant usage on schema payments to authenticated, service_role;

create function payments.add_reason(p_reasons text, p_reason text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when p_reason is null or p_reason = any(string_to_array(p_reasons, ', ')) then p_reasons
        else concat_ws(', ', p_reasons, p_reason)
    end;
end;
$$;

comment on function payments.add_reason(text, text) is
'A review_reason with one more reason: a later finding never hides one that still waits for a person.';

revoke all on function payments.add_reason(text, text) from public, anon, authenticated, service_role;

-- ISO 4217 minor-unit digits. Everything that is not listed has two.
create function payments.currency_exponent(p_currency text)
returns int
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_currency in (
            'BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'VND', 'VUV', 'XAF', 'XOF', 'XPF'
        ) then 0
        when p_currency in ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') then 3
        else 2
    end;
$$;

comment on function payments.currency_exponent(text) is
'Decimal digits of a currency''s minor unit (ISO 4217): JPY 0, USD 2, KWD 3.';

revoke all on function payments.currency_exponent(text) from public, anon, authenticated, service_role;

create function payments.drop_reason(p_reasons text, p_reason text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return nullif(array_to_string(array_remove(string_to_array(p_reasons, ', '), p_reason), ', '), '');
end;
$$;

comment on function payments.drop_reason(text, text) is 'A review_reason without one reason; null when none is left.';

revoke all on function payments.drop_reason(text, text) from public, anon, authenticated, service_role;

create function payments.forbid_change()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% on %.% is forbidden: its rows are history.', tg_op, tg_table_schema, tg_table_name
        using errcode = 'PT409', detail = 'append_only', hint = 'Write a new row that corrects the old one.';
end;
$$;

comment on function payments.forbid_change() is 'Statement trigger of append-only tables. Raises PT409 append_only.';

revoke all on function payments.forbid_change() from public, anon, authenticated, service_role;

-- The state machine, enforced where nobody can forget it. docs/states.md draws it; a test holds the two together.
create function payments.guard_session_status()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if (case old.status
        when 'pending' then new.status in ('processing', 'completed', 'failed', 'expired', 'cancelled')
        when 'processing' then new.status in ('completed', 'failed', 'expired', 'cancelled')
        when 'failed' then new.status in ('processing', 'completed')
        when 'expired' then new.status in ('processing', 'completed')
        when 'cancelled' then new.status in ('processing', 'completed')
        when 'completed' then new.status in ('partially_refunded', 'refunded')
        when 'partially_refunded' then new.status in ('refunded', 'completed')
        when 'refunded' then new.status in ('partially_refunded', 'completed')
        else false
    end) then
        return new;
    end if;
    raise exception 'A checkout session cannot go from % to %.', old.status, new.status
        using errcode = 'PT409', detail = 'illegal_transition', hint = 'See docs/states.md for the allowed changes.';
end;
$$;

comment on function payments.guard_session_status() is
'Row trigger on status changes of checkout sessions. Raises PT409 illegal_transition.';

revoke all on function payments.guard_session_status() from public, anon, authenticated, service_role;

-- The role GUC is what PostgREST sets for each request, and a SECURITY DEFINER function does not change it; 'none' is a
-- direct database login. Whoever holds service_role's rights is the service: itself, postgres, a login of the bridge's
-- own. authenticator does not, because it does not inherit.
create function payments.is_service()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return pg_has_role(coalesce(nullif(current_setting('role'), 'none'), session_user), 'service_role', 'usage');
end;
$$;

comment on function payments.is_service() is
'True when the caller is the service (service_role, or a direct login that inherits it), not a signed-in user.';

revoke all on function payments.is_service() from public, anon, authenticated, service_role;
grant execute on function payments.is_service() to authenticated, service_role;

-- One id maker for every Postgres major, so that ids mean the same everywhere (UUIDv7 layout, RFC 9562):
--   48 bits milliseconds | 4 version | 12 fraction of the millisecond | 2 variant | 52 random | 10 shard
-- Ids of one user therefore sort by creation, and a router can tell the shard of an id without a look-up.
create function payments.new_time_ordered_id(p_user_id uuid)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_microseconds bigint := extract(epoch from clock_timestamp()) * 1000000;
    v_fraction int := (v_microseconds % 1000) * 4096 / 1000;
    -- md5, because the built-in uuid hash may change between majors and a shard must never move
    v_shard int := ('x' || left(md5(p_user_id::text), 3))::bit(12)::int >> 2;
    v_bytes bytea := uuid_send(gen_random_uuid());
begin
    v_bytes := overlay(v_bytes placing substring(int8send(v_microseconds / 1000) from 3) from 1 for 6);
    v_bytes := set_byte(v_bytes, 6, 112 | (v_fraction >> 8));
    v_bytes := set_byte(v_bytes, 7, v_fraction & 255);
    v_bytes := set_byte(v_bytes, 14, (get_byte(v_bytes, 14) & 252) | (v_shard >> 8));
    v_bytes := set_byte(v_bytes, 15, v_shard & 255);
    return encode(v_bytes, 'hex')::uuid;
end;
$$;

comment on function payments.new_time_ordered_id(uuid) is
'A new UUIDv7-layout id whose last 10 bits name one of 1,024 logical shards (a hash of the user id).';

revoke all on function payments.new_time_ordered_id(uuid) from public, anon, authenticated, service_role;

-- EXECUTE is granted to service_role alone; this is the second lock, for projects where somebody granted too much.
create function payments.require_service()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not payments.is_service() then
        raise exception 'This function is for the service only.'
            using errcode = 'PT403', detail = 'service_only', hint = 'Call it with the service role, never from a client.';
    end if;
end;
$$;

comment on function payments.require_service() is 'Refuses everybody but the service. Raises PT403 service_only.';

revoke all on function payments.require_service() from public, anon, authenticated, service_role;

-- Whose session is meant? A NULL identity is never trusted: a signed-in user gets their own id or an error, the
-- service must name the user.
create function payments.require_user(p_user_id uuid)
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller uuid;
begin
    if payments.is_service() then
        if p_user_id is null then
            raise exception 'The service must say for which user it acts.'
                using errcode = 'PT422', detail = 'user_required', hint = 'Pass p_user_id.';
        end if;
        return p_user_id;
    end if;
    v_caller := auth.uid();
    if v_caller is null then
        raise exception 'This call needs a signed-in user.'
            using errcode = 'PT401', detail = 'not_signed_in', hint = 'Sign in and send the user''s access token.';
    end if;
    if p_user_id <> v_caller then
        raise exception 'This session belongs to another user.'
            using errcode = 'PT403', detail = 'not_your_session', hint = 'Leave p_user_id out to act for yourself.';
    end if;
    return v_caller;
end;
$$;

comment on function payments.require_user(uuid) is
'The user the caller may act for. Raises PT401 not_signed_in, PT403 not_your_session, PT422 user_required.';

revoke all on function payments.require_user(uuid) from public, anon, authenticated, service_role;
grant execute on function payments.require_user(uuid) to authenticated, service_role;

create table payments.settings (
    only_row boolean primary key default true,
    session_ttl interval not null default '24 hours',
    processing_ttl interval not null default '14 days',
    providers text[] not null default array['stripe', 'paystack', 'click', 'hypay', 'paypal', 'sandbox'],
    idempotency_lease interval not null default '60 seconds',
    constraint settings_has_one_row check (only_row),
    constraint settings_session_ttl_is_30_minutes_or_more check (session_ttl >= interval '30 minutes'),
    constraint settings_processing_ttl_is_positive check (processing_ttl > interval '0'),
    constraint settings_idempotency_lease_is_positive check (idempotency_lease > interval '0')
);

comment on table payments.settings is 'Installation-wide settings: exactly one row, changed by the DBA.';
comment on column payments.settings.session_ttl is 'How long a new session can be paid.';
comment on column payments.settings.processing_ttl is 'How long a session may wait for a delayed payment method.';
comment on column payments.settings.providers is 'Providers that a session may name.';

comment on column payments.settings.idempotency_lease is
'How long a request may be worked on before its holder counts as crashed.';

alter table payments.settings enable row level security;
revoke all on table payments.settings from public, anon, authenticated, service_role;

-- Function names are text, not regprocedure: a reg* column would block pg_upgrade of the host project.
create table payments.fulfilment_handlers (
    kind text primary key,
    fulfil_function text not null,
    constraint fulfilment_handlers_function_is_a_qualified_name
    check (fulfil_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$')
);

comment on table payments.fulfilment_handlers is
'How each kind of product is given to its buyer. A new kind is one function and one row.';
comment on column payments.fulfilment_handlers.fulfil_function is
'Function (public.payment_checkout_sessions) returns jsonb that grants the purchase; it raises when it cannot.';

alter table payments.fulfilment_handlers enable row level security;
revoke all on table payments.fulfilment_handlers from public, anon, authenticated, service_role;

create table public.payment_products (
    id text primary key,
    kind text not null references payments.fulfilment_handlers (kind),
    name text not null,
    description text not null default '',
    terms jsonb not null default '{}',
    active boolean not null default true,
    created_at timestamptz not null default now(),
    constraint payment_products_id_is_a_slug check (id ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    constraint payment_products_name_is_not_empty check (length(name) between 1 and 200),
    constraint payment_products_terms_are_an_object check (jsonb_typeof(terms) = 'object'),
    constraint payment_products_credits_are_a_positive_integer check (
        kind <> 'credits' or coalesce(terms ->> 'credits', '') ~ '^[1-9][0-9]{0,14}$'
    ),
    constraint payment_products_subscription_names_tier_and_period check (
        kind <> 'subscription' or (
            coalesce(terms ->> 'tier', '') <> ''
            and coalesce(terms ->> 'period', '') ~ '^[1-9][0-9]{0,3} (day|week|month|year)s?$'
        )
    )
);

comment on table public.payment_products is 'What can be bought. The id is what clients send as p_plan.';
comment on column public.payment_products.kind is 'How a paid session is fulfilled (payments.fulfilment_handlers).';
comment on column public.payment_products.terms is
'What the buyer gets: {"credits": 100}, or {"tier": "pro", "period": "1 month"}. Copied into each session, so that a '
'later change of the product does not change what was sold.';

alter table public.payment_products enable row level security;
revoke all on table public.payment_products from public, anon, authenticated, service_role;
grant select on table public.payment_products to anon, authenticated;
grant select, insert, update, delete on table public.payment_products to service_role;

create policy payment_products_are_public_while_active on public.payment_products
for select to anon, authenticated
using (active);

create table public.payment_prices (
    product_id text not null references public.payment_products (id) on delete cascade,
    currency text not null,
    amount bigint not null,
    is_default boolean not null default false,
    primary key (product_id, currency),
    constraint payment_prices_currency_is_an_iso_code check (currency ~ '^[A-Z]{3}$'),
    constraint payment_prices_amount_is_positive check (amount > 0)
);

comment on table public.payment_prices is 'The price of a product in one currency, in minor units.';
comment on column public.payment_prices.is_default is
'The price used when the buyer names no currency; one per product.';

create unique index payment_prices_one_default_per_product on public.payment_prices (product_id) where is_default;

alter table public.payment_prices enable row level security;
revoke all on table public.payment_prices from public, anon, authenticated, service_role;
grant select on table public.payment_prices to anon, authenticated;
grant select, insert, update, delete on table public.payment_prices to service_role;

create policy payment_prices_are_public_while_their_product_is_active on public.payment_prices
for select to anon, authenticated
using (exists (
    select from public.payment_products as p
    where p.id = payment_prices.product_id and p.active
));

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

-- No foreign key to the session: late money for a deleted user must still find its attempt.
create table payments.attempts (
    number bigint primary key generated always as identity,
    session_id uuid not null,
    provider text not null,
    reference text not null,
    status text not null default 'open',
    provider_session_id text,
    checkout_url text,
    error_code text,
    error_message text,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    constraint attempts_reference_is_unique unique (reference),
    constraint attempts_status_is_known check (status in ('open', 'processing', 'failed', 'expired', 'cancelled'))
) with (fillfactor = 80);

comment on table payments.attempts is
'One page opened at a provider for a session. Stored before the page is opened (guarantee 9).';
comment on column payments.attempts.number is 'Small integer name of the attempt; Click needs one below 2^31.';
comment on column payments.attempts.reference is
'The only thing providers ever see of us: opaque, unique, free of user data.';
comment on column payments.attempts.status is
'The last word of the provider on this page. It only advances: open, processing, then failed, expired or cancelled. '
'Money is in payments.captures, not here.';

-- Reader: apply_payment_outcome, when a provider names its own session only.
create unique index attempts_one_per_provider_session
on payments.attempts (provider, provider_session_id)
where provider_session_id is not null;

-- Readers: other_pages, apply_page_outcome.
create index attempts_by_session on payments.attempts (session_id);

alter table payments.attempts enable row level security;
revoke all on table payments.attempts from public, anon, authenticated, service_role;

-- No foreign key to the session: captures outlive sessions and users.
create table payments.captures (
    provider text not null,
    provider_payment_id text not null,
    session_id uuid not null,
    attempt_number bigint,
    provider_session_id text,
    amount bigint not null,
    currency text not null,
    disposition text not null,
    paid_at timestamptz not null,
    created_at timestamptz not null,
    -- guarantee 2: a payment id never pays two sessions
    primary key (provider, provider_payment_id),
    constraint captures_disposition_is_known check (
        disposition in ('settled', 'duplicate', 'amount_mismatch', 'currency_mismatch', 'orphaned')
    ),
    constraint captures_amount_is_not_negative check (amount >= 0)
);

comment on table payments.captures is 'Money proven received, once per provider payment, for ever. Minor units.';
comment on column payments.captures.disposition is
'What it did: settled its session, came a second time (duplicate), was the wrong money (a mismatch), or came for a '
'session whose user was deleted (orphaned).';

-- Guarantee 3: one capture at the most pays a session.
create unique index captures_one_settles_a_session on payments.captures (session_id) where disposition = 'settled';

-- Reader: recognise_capture, for callers that know the provider's page only.
create index captures_by_page on payments.captures (provider, provider_session_id)
where provider_session_id is not null;

create trigger captures_are_never_deleted
before delete or truncate on payments.captures
for each statement execute function payments.forbid_change();

alter table payments.captures enable row level security;
revoke all on table payments.captures from public, anon, authenticated, service_role;

-- No foreign key to the session: the audit trail outlives it. The key leads with the session, its only reader's filter.
create table payments.session_events (
    session_id uuid not null,
    id bigint generated always as identity,
    from_status text not null,
    to_status text not null,
    source text not null,
    reason text,
    detail text,
    occurred_at timestamptz,
    created_at timestamptz not null,
    primary key (session_id, id),
    constraint session_events_source_is_known check (
        source in ('client', 'webhook', 'verify', 'return', 'reconcile', 'cron', 'admin')
    )
);

comment on table payments.session_events is 'Audit trail: one row for every change of a checkout session. Append-only.';
comment on column payments.session_events.occurred_at is 'When the provider says it happened; created_at is our clock.';
comment on column payments.session_events.detail is
'What operators need to know and buyers need not: a handler''s error.';

create trigger session_events_are_append_only
before update or delete or truncate on payments.session_events
for each statement execute function payments.forbid_change();

alter table payments.session_events enable row level security;
revoke all on table payments.session_events from public, anon, authenticated, service_role;

create table payments.webhook_events (
    provider text not null,
    event_id text not null,
    type text not null,
    payload jsonb not null,
    status text not null,
    session_id uuid,
    error text,
    deliveries int not null default 1,
    received_at timestamptz not null,
    handled_at timestamptz,
    primary key (provider, event_id),
    constraint webhook_events_status_is_known check (status in ('handled', 'failed', 'dead')),
    constraint webhook_events_handled_ones_have_a_time check ((status = 'handled') = (handled_at is not null))
);

comment on table payments.webhook_events is
'Provider notifications whose signature was valid. handled: applied in the same transaction; failed: the provider '
'will send it again; dead: a person must look.';
comment on column payments.webhook_events.error is 'Stable reason why it could not be applied (docs/errors.md).';

alter table payments.webhook_events enable row level security;
revoke all on table payments.webhook_events from public, anon, authenticated, service_role;

create table public.payment_credit_balances (
    user_id uuid primary key references auth.users (id) on delete cascade,
    balance bigint not null,
    updated_at timestamptz not null,
    constraint payment_credit_balances_are_never_negative check (balance >= 0)
) with (fillfactor = 70);

comment on table public.payment_credit_balances is
'Credits a user can spend: always the sum of the user''s payment_credit_entries.';

alter table public.payment_credit_balances enable row level security;
revoke all on table public.payment_credit_balances from public, anon, authenticated, service_role;
grant select on table public.payment_credit_balances to authenticated, service_role;

create policy payment_credit_balances_are_read_by_their_user on public.payment_credit_balances
for select to authenticated
using (user_id = (select auth.uid()));

-- No foreign key to the user: entries outlive the user row.
create table public.payment_credit_entries (
    user_id uuid not null,
    id bigint generated always as identity,
    amount bigint not null,
    reason text not null,
    source text not null,
    note text,
    created_at timestamptz not null,
    primary key (user_id, id),
    constraint payment_credit_entries_change_something check (amount <> 0),
    -- one purchase grants once, whatever calls the handler
    constraint payment_credit_entries_one_per_reason_and_source unique (reason, source)
);

comment on table public.payment_credit_entries is 'Every change of a credit balance. Append-only.';
comment on column public.payment_credit_entries.reason is 'Why: purchase or spend.';
comment on column public.payment_credit_entries.source is
'What caused it, unique per reason: the session of a purchase, user and idempotency key of a spending.';
comment on column public.payment_credit_entries.note is 'What the application says a spending was for.';

create trigger payment_credit_entries_are_append_only
before update or delete or truncate on public.payment_credit_entries
for each statement execute function payments.forbid_change();

alter table public.payment_credit_entries enable row level security;
revoke all on table public.payment_credit_entries from public, anon, authenticated, service_role;
revoke all on sequence public.payment_credit_entries_id_seq from public, anon, authenticated, service_role;
grant select on table public.payment_credit_entries to authenticated, service_role;

create policy payment_credit_entries_are_read_by_their_user on public.payment_credit_entries
for select to authenticated
using (user_id = (select auth.uid()));

create table public.payment_subscriptions (
    user_id uuid not null references auth.users (id) on delete cascade,
    tier text not null,
    started_at timestamptz not null,
    ends_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (user_id, tier),
    constraint payment_subscriptions_end_after_they_start check (ends_at >= started_at)
);

comment on table public.payment_subscriptions is
'Until when a user holds a tier. It is active while now() < ends_at; buying again extends it.';

alter table public.payment_subscriptions enable row level security;
revoke all on table public.payment_subscriptions from public, anon, authenticated, service_role;
grant select on table public.payment_subscriptions to authenticated, service_role;

create policy payment_subscriptions_are_read_by_their_user on public.payment_subscriptions
for select to authenticated
using (user_id = (select auth.uid()));

-- Is to payment_subscriptions what credit entries are to balances: the unique effect of one purchase.
create table payments.subscription_periods (
    session_id uuid primary key,
    user_id uuid not null,
    tier text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    created_at timestamptz not null,
    constraint subscription_periods_end_after_they_start check (ends_at > starts_at)
);

comment on table payments.subscription_periods is 'The period that each paid session added to a subscription.';

alter table payments.subscription_periods enable row level security;
revoke all on table payments.subscription_periods from public, anon, authenticated, service_role;

create table payments.idempotency_keys (
    key text primary key,
    user_id uuid,
    request_hash text not null,
    status text not null,
    response jsonb,
    claim bigint not null default 1,
    leased_until timestamptz not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint idempotency_keys_key_is_short check (length(key) between 1 and 300),
    constraint idempotency_keys_status_is_known check (status in ('pending', 'completed', 'failed'))
);

comment on table payments.idempotency_keys is
'Requests that must have their effect once, with the answer that a repeat gets.';
comment on column payments.idempotency_keys.claim is 'Number of the holder; a take-over makes the next one.';
comment on column payments.idempotency_keys.leased_until is
'A pending request whose holder has not finished by then may be taken over: it has crashed.';

-- Reader: cleanup_idempotency_keys.
create index idempotency_keys_by_age on payments.idempotency_keys (updated_at);

alter table payments.idempotency_keys enable row level security;
revoke all on table payments.idempotency_keys from public, anon, authenticated, service_role;

create type payments.grant_result as (
    fulfilment_status text,
    fulfilment jsonb,
    error_code text,
    error_message text,
    detail text
);

comment on type payments.grant_result is 'How giving the buyer what was paid for went: fulfilled or failed, and why.';

create type payments.move as (
    to_status text,
    source text,
    reason text,
    error_code text,
    error_message text
);

comment on type payments.move is 'A wanted change of a session''s status, with what the audit trail needs to know.';

create type payments.offer as (
    product_id text,
    kind text,
    name text,
    terms jsonb,
    currency text,
    original_amount bigint,
    discount_amount bigint,
    amount bigint,
    coupon_id text
);

comment on type payments.offer is 'What a purchase costs now and what it gives. Amounts in minor units.';

create type payments.outcome as (
    provider text,
    reference text,
    session_id uuid,
    provider_session_id text,
    status text,
    provider_payment_id text,
    amount bigint,
    currency text,
    paid_at timestamptz,
    provider_customer_id text,
    refunds jsonb,
    disputed boolean,
    error_code text,
    error_message text,
    source text
);

comment on type payments.outcome is
'What a provider says about an attempt, in our words: the typed form of apply_payment_outcome''s p_outcome.';
