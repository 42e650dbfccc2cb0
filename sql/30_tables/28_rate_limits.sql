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
