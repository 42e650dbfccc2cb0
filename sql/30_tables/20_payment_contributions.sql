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
