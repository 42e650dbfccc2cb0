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
