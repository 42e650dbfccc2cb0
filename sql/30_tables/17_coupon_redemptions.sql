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
where holds_place and status = 'released';

-- Reader: the cap per user.
create index coupon_redemptions_by_user on payments.coupon_redemptions (user_id, coupon_id);

alter table payments.coupon_redemptions enable row level security;
revoke all on table payments.coupon_redemptions from public, anon, authenticated, service_role;
