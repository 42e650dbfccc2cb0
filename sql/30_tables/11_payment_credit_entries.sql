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
comment on column public.payment_credit_entries.reason is
'Why: purchase, spend, clawback (a refund) or reinstatement (a refund that failed later).';
comment on column public.payment_credit_entries.source is
'What caused it, unique per reason: the session of a purchase, user and idempotency key of a spending, session and '
'number of a clawback or reinstatement.';
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
