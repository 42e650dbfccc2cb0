-- What a shard has besides the migrations: a login for the router, and what only the router may ask.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'pgcheckout_router') then
        create role pgcheckout_router login noinherit;
    end if;
end;
$$;
-- each call is made as one of these two, never as the login itself
grant service_role, authenticated to pgcheckout_router;

create or replace function shard_router.add_user(p_user_id uuid, p_email text)
returns void
language sql
security definer -- service_role may not write to auth.users
set search_path = pg_catalog, pg_temp
as $$
    insert into auth.users (id, email) values (p_user_id, p_email) on conflict (id) do nothing
$$;

comment on function shard_router.add_user(uuid, text) is 'Lets a user buy here: sessions refer to auth.users.';

create or replace function shard_router.forget_failure(p_provider text, p_event_id text)
returns void
language sql
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
    delete from payments.webhook_events as e
    where e.provider = p_provider and e.event_id = p_event_id and e.status <> 'handled'
$$;

comment on function shard_router.forget_failure(text, text) is 'A webhook that failed here was applied on another shard.';

revoke all on all functions in schema shard_router from public, anon, authenticated;
grant usage on schema shard_router to service_role;
grant execute on function shard_router.add_user(uuid, text) to service_role;
grant execute on function shard_router.forget_failure(text, text) to service_role;
