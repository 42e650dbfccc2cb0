-- Purpose: tables for coupons, groups, refunds, invoices, notifications, reconciliation and limits.
-- Locks:   ACCESS EXCLUSIVE on payments.settings, fulfilment_handlers, attempts, subscription_periods
--          and public.payment_products for new columns and constraints; SHARE on sessions, attempts and
--          webhook events while they get an index.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

-- squawk-ignore-file constraint-missing-not-valid, ban-drop-constraint
-- These constraints are on tables of a few rows, of new columns, or looser than what they replace.
-- squawk-ignore-file require-concurrent-index-creation
-- Their indexes are nearly empty: one scan of the table, 1 to 2 seconds for 10 million rows.

alter table payments.settings
add column coupon_returns_on_refund boolean not null default false,
add column reminder_after interval not null default '6 hours',
add column reminder_limit int not null default 3,
add column notification_tries int not null default 8,
add column reconcile_after interval[] not null
default array['1 minute', '5 minutes', '15 minutes', '1 hour']::interval[],
add column rate_window interval not null default '1 minute',
add column create_limit int default 60,
add column verify_limit int default 60,
add column invoice_series text not null default 'INV',
add column credit_note_series text not null default 'CN',
add constraint settings_reminders_are_spaced check (reminder_after > interval '0' and reminder_limit between 0 and 10),
add constraint settings_notification_tries_are_positive check (notification_tries > 0),
add constraint settings_reconcile_after_names_waits check (
    cardinality(reconcile_after) > 0 and interval '0' < all(reconcile_after)
),
add constraint settings_rates_are_positive check (
    rate_window > interval '0' and create_limit > 0 and verify_limit > 0
),
add constraint settings_series_are_two_names check (
    invoice_series ~ '^[A-Z0-9-]{1,12}$' and credit_note_series ~ '^[A-Z0-9-]{1,12}$'
    and invoice_series <> credit_note_series
);

comment on column payments.settings.coupon_returns_on_refund is
'Whether a full refund gives the purchase''s coupon place back.';
comment on column payments.settings.reminder_after is
'When an unpaid session is reminded of for the first time, and the wait before each further reminder.';
comment on column payments.settings.reminder_limit is 'How many reminders a session gets at most; 0 sends none.';
comment on column payments.settings.notification_tries is 'After how many failed tries a notification is dead.';
comment on column payments.settings.reconcile_after is
'Waits before the provider is asked about an unsettled page; the last one repeats until the session expires.';
comment on column payments.settings.rate_window is 'Window of create_limit and verify_limit.';
comment on column payments.settings.create_limit is 'New sessions per user and window; null is no limit.';
comment on column payments.settings.verify_limit is 'Verifications per user and window; null is no limit.';
comment on column payments.settings.invoice_series is 'Series of invoice numbers.';
comment on column payments.settings.credit_note_series is 'Series of the numbers of credit notes and corrections.';

alter table payments.fulfilment_handlers
add column reverse_function text,
add column check_function text,
add constraint fulfilment_handlers_reverse_is_a_qualified_name
check (reverse_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$'),
add constraint fulfilment_handlers_check_is_a_qualified_name
check (check_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$');

comment on table payments.fulfilment_handlers is
'How each kind of product is given to its buyer and taken back. A new kind is a function pair and one row.';
comment on column payments.fulfilment_handlers.reverse_function is
'Function (public.payment_checkout_sessions, share numeric) returns jsonb that leaves the buyer without this share of '
'the purchase in all: 0 restores everything, 1 takes everything. Called again with the same share it changes nothing. '
'Without one, a refund is left for review.';
comment on column payments.fulfilment_handlers.check_function is
'Function (public.payment_checkout_sessions) returns void that raises when a purchase could not be fulfilled, before '
'the buyer pays. It sees a session that is not stored yet and writes nothing.';

insert into payments.fulfilment_handlers (kind, fulfil_function, reverse_function, check_function)
values
('credits', 'payments.fulfil_credits', 'payments.reverse_credits', null),
('subscription', 'payments.fulfil_subscription', 'payments.reverse_subscription', null),
('group_create', 'payments.fulfil_group_create', 'payments.reverse_group_create', 'payments.check_group_create'),
('group_join', 'payments.fulfil_group_join', 'payments.reverse_group_join', 'payments.check_group_join'),
('contribution', 'payments.fulfil_contribution', 'payments.reverse_contribution', 'payments.check_contribution'),
('none', 'payments.fulfil_none', 'payments.reverse_none', null)
on conflict (kind) do update
    set reverse_function = excluded.reverse_function, check_function = excluded.check_function
    -- a host's own handler stays as it is
    where fulfilment_handlers.fulfil_function = excluded.fulfil_function;

-- no product can be of kind group_create yet
alter table public.payment_products
add constraint payment_products_groups_have_capacity_contribution_and_cycle check (
    kind <> 'group_create' or (
        coalesce(terms ->> 'capacity', '') ~ '^[1-9][0-9]{0,3}$'
        and coalesce(terms ->> 'contribution_product', '') <> ''
        and coalesce(terms ->> 'cycle', '') ~ '^[1-9][0-9]{0,3} (day|week|month|year)s?$'
    )
);

comment on column public.payment_products.terms is
'What the buyer gets: {"credits": 100}, {"tier": "pro", "period": "1 month"}, or {"capacity": 12, '
'"contribution_product": "…", "cycle": "1 month", "join_product": "…"} for group_create. Copied into each session, so '
'that a later change of the product does not change what was sold.';

-- nearly empty indexes: only sessions in review, and events that were not handled
create index payment_checkout_sessions_in_review on public.payment_checkout_sessions (id)
where review_reason is not null;
create index webhook_events_not_handled on payments.webhook_events (received_at) where status <> 'handled';

alter table payments.attempts
add column reconcile_at timestamptz,
add column reconcile_tries int not null default 0;

comment on column payments.attempts.reconcile_at is
'When the provider is asked about this page next; null when there is nothing left to ask.';

create index attempts_to_reconcile on payments.attempts (reconcile_at) where reconcile_at is not null;

comment on column public.payment_credit_entries.reason is
'Why: purchase, spend, clawback (a refund) or reinstatement (a refund that failed later).';
comment on column public.payment_credit_entries.source is
'What caused it, unique per reason: the session of a purchase, user and idempotency key of a spending, session and '
'number of a clawback or reinstatement.';

alter table payments.subscription_periods
add column cut interval,
drop constraint subscription_periods_end_after_they_start,
add constraint subscription_periods_end_after_they_start check (ends_at >= starts_at);

comment on column payments.subscription_periods.cut is
'How much of it a full refund took away; null while nothing is.';

create table payments.coupons (
    id text primary key,
    percent_off int,
    product_ids text[],
    valid_from timestamptz not null default now(),
    valid_until timestamptz,
    max_redemptions int,
    max_redemptions_per_user int,
    places_taken int not null default 0,
    created_at timestamptz not null default now(),
    constraint coupons_id_is_an_upper_case_code check (id ~ '^[A-Z0-9][A-Z0-9_-]{0,62}$'),
    constraint coupons_percent_is_1_to_100 check (percent_off between 1 and 100),
    constraint coupons_name_a_product check (
        cardinality(product_ids) > 0 and array_position(product_ids, null) is null
    ),
    constraint coupons_end_after_they_start check (valid_until > valid_from),
    constraint coupons_caps_are_positive check (max_redemptions > 0 and max_redemptions_per_user > 0),
    -- guarantee 7
    constraint coupons_are_never_redeemed_above_their_cap check (
        places_taken >= 0 and places_taken <= max_redemptions
    )
) with (fillfactor = 70);

comment on table payments.coupons is
'Discounts that buyers name as p_coupon, in any case. A percentage, or fixed amounts in payments.coupon_currencies.';
comment on column payments.coupons.percent_off is 'Null for a coupon of fixed amounts.';
comment on column payments.coupons.product_ids is 'Products it is good for; null for all.';
comment on column payments.coupons.max_redemptions is 'Places in all; null for no cap.';
comment on column payments.coupons.places_taken is
'Redemptions that hold a place (payments.coupon_redemptions). Its row lock is the queue of the buyers.';

alter table payments.coupons enable row level security;
revoke all on table payments.coupons from public, anon, authenticated, service_role;

create table payments.coupon_currencies (
    coupon_id text not null references payments.coupons (id) on delete cascade,
    currency text not null,
    amount_off bigint,
    minimum_amount bigint,
    primary key (coupon_id, currency),
    constraint coupon_currencies_currency_is_an_iso_code check (currency ~ '^[A-Z]{3}$'),
    constraint coupon_currencies_amounts_are_positive check (amount_off > 0 and minimum_amount > 0)
);

comment on table payments.coupon_currencies is 'What a coupon means in one currency, in minor units.';
comment on column payments.coupon_currencies.amount_off is
'What a coupon of fixed amounts takes off; without it, the coupon cannot be used in this currency.';
comment on column payments.coupon_currencies.minimum_amount is 'Price from which the coupon can be used.';

alter table payments.coupon_currencies enable row level security;
revoke all on table payments.coupon_currencies from public, anon, authenticated, service_role;

-- No foreign key to the session: what was redeemed outlives it.
create table payments.coupon_redemptions (
    session_id uuid primary key,
    coupon_id text not null references payments.coupons (id),
    user_id uuid not null,
    status text not null,
    holds_place boolean not null,
    paid_late boolean not null default false,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint coupon_redemptions_status_is_known check (status in ('reserved', 'confirmed', 'released'))
);

comment on table payments.coupon_redemptions is
'The use of a coupon by a session: reserved with it, confirmed when it is paid, released when it ends unpaid.';
comment on column payments.coupon_redemptions.holds_place is
'Whether coupons.places_taken counts it. A released place is given back when somebody needs it (reserve_coupon), so '
'that a release locks no coupon. A confirmed one without a place is above the cap: it was paid late.';
comment on column payments.coupon_redemptions.paid_late is
'The money came after the place had been released. The agreed price was honoured.';

-- Readers: reserve_coupon, quote_checkout (places that can be given back).
create index coupon_redemptions_to_give_back on payments.coupon_redemptions (coupon_id)
where holds_place and status <> 'confirmed';

-- Reader: the cap per user.
create index coupon_redemptions_by_user on payments.coupon_redemptions (user_id, coupon_id);

alter table payments.coupon_redemptions enable row level security;
revoke all on table payments.coupon_redemptions from public, anon, authenticated, service_role;

create table public.payment_groups (
    id uuid primary key,
    name text not null,
    created_by uuid not null,
    capacity int not null,
    contribution_product_id text not null references public.payment_products (id),
    join_product_id text references public.payment_products (id),
    cycle interval not null,
    status text not null default 'open',
    created_at timestamptz not null,
    constraint payment_groups_name_is_short check (length(name) between 1 and 200),
    constraint payment_groups_capacity_is_1_to_9999 check (capacity between 1 and 9999),
    constraint payment_groups_cycle_is_positive check (cycle > interval '0'),
    constraint payment_groups_status_is_known check (status in ('open', 'closed'))
);

comment on table public.payment_groups is
'Groups whose members pay the same contribution each cycle, such as rotating savings groups.';
comment on column public.payment_groups.id is 'Also the id of the session that paid for its creation.';
comment on column public.payment_groups.contribution_product_id is 'What a member buys to pay one cycle.';
comment on column public.payment_groups.join_product_id is
'What a new member buys; null when any group_join product will do.';
comment on column public.payment_groups.cycle is 'How often a contribution is due.';
comment on column public.payment_groups.status is 'closed: nobody can join it.';

alter table public.payment_groups enable row level security;
revoke all on table public.payment_groups from public, anon, authenticated, service_role;
grant select on table public.payment_groups to authenticated, service_role;

create table public.payment_group_members (
    group_id uuid not null references public.payment_groups (id) on delete cascade,
    user_id uuid not null references auth.users (id) on delete cascade,
    position int not null,
    status text not null,
    session_id uuid not null,
    security_deposit bigint not null,
    currency text not null,
    joined_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (group_id, user_id),
    constraint payment_group_members_position_is_positive check (position > 0),
    constraint payment_group_members_status_is_known check (status in ('active', 'ended')),
    constraint payment_group_members_deposit_is_not_negative check (security_deposit >= 0)
);

comment on table public.payment_group_members is 'Who holds which slot of a group.';
comment on column public.payment_group_members.position is 'The slot, from 1 to the group''s capacity.';
comment on column public.payment_group_members.status is 'ended: the purchase was refunded in full; the slot is free.';
comment on column public.payment_group_members.session_id is 'The session that paid for the slot.';
comment on column public.payment_group_members.security_deposit is
'What was paid for the slot, in minor units of currency.';

-- A slot has one holder, whatever races for it.
create unique index payment_group_members_one_per_position on public.payment_group_members (group_id, position)
where status = 'active';

-- Readers: RLS here and on payment_groups, the cascade from auth.users.
create index payment_group_members_by_user on public.payment_group_members (user_id);

alter table public.payment_group_members enable row level security;
revoke all on table public.payment_group_members from public, anon, authenticated, service_role;
grant select on table public.payment_group_members to authenticated, service_role;

create policy payment_group_members_are_read_by_their_user on public.payment_group_members
for select to authenticated
using (user_id = (select auth.uid()));

create policy payment_groups_are_read_by_their_members on public.payment_groups
for select to authenticated
using (exists (
    select from public.payment_group_members as m
    where m.group_id = payment_groups.id and m.user_id = (select auth.uid())
));

-- No foreign key to the user: what was contributed outlives the user row.
create table public.payment_contributions (
    group_id uuid not null references public.payment_groups (id),
    user_id uuid not null,
    cycle int not null,
    status text not null,
    session_id uuid not null,
    amount bigint not null,
    currency text not null,
    paid_at timestamptz not null,
    updated_at timestamptz not null,
    -- a cycle is paid once, whatever calls the handler
    primary key (group_id, user_id, cycle),
    constraint payment_contributions_cycle_is_positive check (cycle > 0),
    constraint payment_contributions_status_is_known check (status in ('paid', 'refunded'))
);

comment on table public.payment_contributions is 'Cycles of a group that a member has paid. Minor units.';
comment on column public.payment_contributions.session_id is 'The session that paid it last.';

-- Readers: RLS, payment history of a user.
create index payment_contributions_by_user on public.payment_contributions (user_id);

alter table public.payment_contributions enable row level security;
revoke all on table public.payment_contributions from public, anon, authenticated, service_role;
grant select on table public.payment_contributions to authenticated, service_role;

create policy payment_contributions_are_read_by_their_user on public.payment_contributions
for select to authenticated
using (user_id = (select auth.uid()));

-- No foreign key to the session or the user: money that went back outlives both.
create table public.payment_refunds (
    provider text not null,
    provider_refund_id text not null,
    session_id uuid not null,
    user_id uuid,
    provider_payment_id text,
    kind text not null,
    amount bigint not null,
    currency text not null,
    status text not null,
    reason text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (provider, provider_refund_id),
    constraint payment_refunds_kind_is_known check (kind in ('refund', 'dispute')),
    constraint payment_refunds_status_is_known check (status in ('pending', 'succeeded', 'failed', 'refused')),
    constraint payment_refunds_amount_is_positive check (amount > 0),
    constraint payment_refunds_reason_is_short check (length(reason) <= 500)
);

comment on table public.payment_refunds is
'Money that went back, or is about to, once per refund of the provider. Minor units.';
comment on column public.payment_refunds.kind is
'refund, or dispute: pending while it is open, succeeded when it is lost, failed when it is won.';
comment on column public.payment_refunds.provider_payment_id is
'The payment it takes back; null when the provider did not say, and the session''s own is meant.';
comment on column public.payment_refunds.status is
'Only advances: pending, succeeded, failed. refused: more than was paid; it counts nowhere and is in review.';

-- Reader: settle_refunds.
create index payment_refunds_by_session on public.payment_refunds (session_id);

-- Reader: RLS.
create index payment_refunds_by_user on public.payment_refunds (user_id);

create trigger payment_refunds_are_never_deleted
before delete or truncate on public.payment_refunds
for each statement execute function payments.forbid_change();

alter table public.payment_refunds enable row level security;
revoke all on table public.payment_refunds from public, anon, authenticated, service_role;
grant select on table public.payment_refunds to authenticated, service_role;

create policy payment_refunds_are_read_by_their_user on public.payment_refunds
for select to authenticated
using (user_id = (select auth.uid()));

create table payments.credit_clawbacks (
    session_id uuid primary key,
    user_id uuid not null,
    owed bigint not null,
    taken bigint not null,
    changes int not null,
    updated_at timestamptz not null,
    constraint credit_clawbacks_take_no_more_than_is_owed check (taken between 0 and owed)
);

comment on table payments.credit_clawbacks is
'Credits that refunds of a session took back. owed - taken is the shortfall: what the user had spent already.';
comment on column payments.credit_clawbacks.changes is 'Entries made so far; numbers their sources.';

alter table payments.credit_clawbacks enable row level security;
revoke all on table payments.credit_clawbacks from public, anon, authenticated, service_role;

-- No foreign key to the session, the user or the product: documents stay as they were issued.
create table public.payment_invoices (
    series text not null,
    year int not null,
    number int not null,
    kind text not null,
    session_id uuid not null,
    user_id uuid not null,
    email text,
    product_id text not null,
    product_name text not null,
    currency text not null,
    original_amount bigint not null,
    discount_amount bigint not null,
    amount bigint not null,
    provider text not null,
    provider_payment_id text,
    paid_at timestamptz not null,
    issued_at timestamptz not null,
    primary key (series, year, number),
    constraint payment_invoices_kind_is_known check (kind in ('invoice', 'credit_note', 'correction')),
    constraint payment_invoices_number_is_positive check (number > 0),
    constraint payment_invoices_sign_follows_their_kind check (
        case kind when 'credit_note' then amount < 0 else amount >= 0 end
    )
);

comment on table public.payment_invoices is
'One invoice per completed session, a credit note per refund, a correction when a refund fails later. Numbers have no '
'gaps per series and year (UTC). Minor units. Immutable.';
comment on column public.payment_invoices.amount is
'What the document is about; negative on credit notes. The documents of a session add up to what it has brought in.';

create unique index payment_invoices_one_invoice_per_session on public.payment_invoices (session_id)
where kind = 'invoice';

-- Reader: RLS.
create index payment_invoices_by_user on public.payment_invoices (user_id);

create trigger payment_invoices_are_immutable
before update or delete or truncate on public.payment_invoices
for each statement execute function payments.forbid_change();

alter table public.payment_invoices enable row level security;
revoke all on table public.payment_invoices from public, anon, authenticated, service_role;
grant select on table public.payment_invoices to authenticated, service_role;

create policy payment_invoices_are_read_by_their_user on public.payment_invoices
for select to authenticated
using (user_id = (select auth.uid()));

create table payments.invoice_counters (
    series text not null,
    year int not null,
    last_number int not null,
    primary key (series, year)
) with (fillfactor = 50);

comment on table payments.invoice_counters is
'The last number given per series and year. A row lock, not a sequence: a rolled back purchase leaves no gap.';

alter table payments.invoice_counters enable row level security;
revoke all on table payments.invoice_counters from public, anon, authenticated, service_role;

create table payments.unnumbered_invoices (
    id bigint primary key generated always as identity,
    document jsonb not null,
    created_at timestamptz not null
);

comment on table payments.unnumbered_invoices is
'Documents of purchases that did not wait for a number because another purchase held the counter. '
'number_payment_invoices gives them theirs.';
comment on column payments.unnumbered_invoices.document is 'The row of payment_invoices, but for its number and date.';

alter table payments.unnumbered_invoices enable row level security;
revoke all on table payments.unnumbered_invoices from public, anon, authenticated, service_role;

-- No foreign key to the session: a receipt is still due when the session has been cleaned up.
create table payments.notifications (
    id bigint primary key generated always as identity,
    session_id uuid not null,
    user_id uuid not null,
    kind text not null,
    occurrence text not null,
    email text,
    payload jsonb not null,
    status text not null default 'queued',
    tries int not null default 0,
    due_at timestamptz not null,
    error text,
    created_at timestamptz not null,
    finished_at timestamptz,
    -- sent once, whatever happens twice
    constraint notifications_one_per_session_kind_and_occurrence unique (session_id, kind, occurrence),
    constraint notifications_kind_is_known check (kind in ('receipt', 'refund', 'reminder', 'review_alert')),
    constraint notifications_status_is_known check (status in ('queued', 'sent', 'dead', 'cancelled')),
    constraint notifications_buyers_have_an_address check (kind = 'review_alert' or email is not null)
) with (fillfactor = 80);

comment on table payments.notifications is
'Outbox: written in the transaction of what it tells, sent by a worker. cancelled: no longer true when its turn came.';
comment on column payments.notifications.occurrence is
'Which one of its kind: empty for the receipt, the refund''s id, the reminder''s number, the review''s reason.';
comment on column payments.notifications.email is 'The buyer''s address; null for alerts, which go to the operator.';
comment on column payments.notifications.due_at is
'When it may be claimed; a claim moves it on, so that a crashed worker''s comes back.';

-- Readers: claim_notifications, payment_health.
create index notifications_due on payments.notifications (due_at) where status = 'queued';

-- Reader: payment_health.
create index notifications_dead on payments.notifications (id) where status = 'dead';

-- Reader: payment_report.
create index notifications_reminders on payments.notifications (session_id) where kind = 'reminder';

alter table payments.notifications enable row level security;
revoke all on table payments.notifications from public, anon, authenticated, service_role;

create table payments.heartbeats (
    name text primary key,
    beat_at timestamptz not null,
    constraint heartbeats_name_is_short check (length(name) between 1 and 100)
);

comment on table payments.heartbeats is 'When each worker was last seen at work.';

alter table payments.heartbeats enable row level security;
revoke all on table payments.heartbeats from public, anon, authenticated, service_role;

create table payments.rate_limits (
    user_id uuid not null references auth.users (id) on delete cascade,
    action text not null,
    window_started_at timestamptz not null,
    calls int not null,
    primary key (user_id, action)
) with (fillfactor = 70);

comment on table payments.rate_limits is
'Calls per user in the current window, for actions that leave no other trace. New sessions are counted as they are.';

alter table payments.rate_limits enable row level security;
revoke all on table payments.rate_limits from public, anon, authenticated, service_role;
