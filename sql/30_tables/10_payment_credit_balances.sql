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
