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
