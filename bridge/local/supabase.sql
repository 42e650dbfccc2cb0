-- Makes an empty plain Postgres (15, 17 or 18) look like a hosted Supabase database to migrations and RPC: roles,
-- schemas, default privileges, auth functions. For the demo and the tests; never run it on a real project.
-- Run as a superuser named supabase_admin.

-- 1. roles (cluster wide)
do $$
declare r record;
begin
  for r in select * from (values
      ('postgres',               'login nosuperuser createdb createrole replication bypassrls'),
      ('anon',                   'nologin noinherit'),
      ('authenticated',          'nologin noinherit'),
      ('service_role',           'nologin noinherit bypassrls'),
      ('authenticator',          'login noinherit'),
      ('supabase_auth_admin',    'login noinherit'),
      ('supabase_storage_admin', 'login noinherit'),
      ('supabase_functions_admin','login noinherit'),
      ('supabase_replication_admin','login replication'),
      ('supabase_read_only_user','login bypassrls'),
      ('supabase_realtime_admin','nologin noinherit'),
      ('dashboard_user',         'nologin createdb createrole replication'),
      ('pgbouncer',              'login')
    ) v(name, opts)
  loop
    if not exists (select from pg_roles where rolname = r.name) then
      execute format('create role %I %s', r.name, r.opts);
    end if;
  end loop;
end $$;
alter role anon inherit;  alter role authenticated inherit;  alter role service_role inherit;
grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres;
do $$ begin
  if current_setting('server_version_num')::int >= 160000 then
    grant anon, authenticated, service_role to postgres with admin option;
  end if;
end $$;
grant pg_read_all_data to supabase_read_only_user;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
do $$ begin
  if current_setting('server_version_num')::int >= 160000 then
    execute 'grant pg_create_subscription to postgres';
  end if;
end $$;

-- 2. role settings
alter role anon          set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role postgres      set search_path = "$user", public, extensions;
alter role supabase_admin set search_path = "$user", public, auth, extensions;
alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = 60000;

-- 3. database and schemas
do $$ begin
  execute format('grant all on database %I to postgres, dashboard_user', current_database());
  execute format('alter database %I set timezone to %L', current_database(), 'UTC');
end $$;
create schema if not exists extensions;
create schema if not exists auth       authorization supabase_admin;
create schema if not exists storage    authorization supabase_admin;
create schema if not exists graphql_public;
create schema if not exists realtime;
create schema if not exists vault;
grant all   on schema extensions to postgres, dashboard_user;
grant usage on schema extensions to anon, authenticated, service_role;
grant usage on schema auth, storage to postgres, anon, authenticated, service_role;
grant all   on schema auth to supabase_auth_admin, dashboard_user;
grant all   on schema storage to supabase_storage_admin with grant option;
alter schema public owner to pg_database_owner;
grant usage on schema public to postgres, anon, authenticated, service_role;
grant create on schema public to postgres;

-- 4. default privileges in public.  Old behaviour (projects before 2026-05-30 / 2026-10-30):
alter default privileges for role postgres       in schema public grant all on tables    to postgres, anon, authenticated, service_role;
alter default privileges for role postgres       in schema public grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role postgres       in schema public grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public grant all on tables    to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public grant all on sequences to postgres, anon, authenticated, service_role;
-- New behaviour, for every project since 2026-10-30:
alter default privileges for role postgres in schema public revoke select, insert, update, delete on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public revoke usage, select on sequences from anon, authenticated, service_role;
alter default privileges for role postgres in schema public revoke execute on functions from anon, authenticated, service_role;

-- 5. extensions that are always on (skipped when the build lacks them)
do $$
declare e text;
begin
  foreach e in array array['uuid-ossp','pgcrypto','pg_stat_statements'] loop
    if exists (select from pg_available_extensions where name = e) then
      execute format('create extension if not exists %I with schema extensions', e);
    end if;
  end loop;
end $$;

-- 6. auth functions and the auth tables that user SQL touches
create or replace function auth.uid() returns uuid language sql stable as
$$ select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                   nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
create or replace function auth.role() returns text language sql stable as
$$ select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
                   nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')::text $$;
create or replace function auth.email() returns text language sql stable as
$$ select coalesce(nullif(current_setting('request.jwt.claim.email', true), ''),
                   nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')::text $$;
create or replace function auth.jwt() returns jsonb language sql stable as
$$ select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
                   nullif(current_setting('request.jwt.claims', true), ''))::jsonb $$;
alter function auth.uid()   owner to supabase_auth_admin;
alter function auth.role()  owner to supabase_auth_admin;
alter function auth.email() owner to supabase_auth_admin;
alter function auth.jwt()   owner to supabase_auth_admin;
create table if not exists auth.users (
  instance_id uuid, id uuid primary key, aud varchar(255), role varchar(255), email varchar(255),
  encrypted_password varchar(255), email_confirmed_at timestamptz, invited_at timestamptz,
  confirmation_token varchar(255), confirmation_sent_at timestamptz, recovery_token varchar(255),
  recovery_sent_at timestamptz, email_change_token_new varchar(255), email_change varchar(255),
  email_change_sent_at timestamptz, last_sign_in_at timestamptz, raw_app_meta_data jsonb,
  raw_user_meta_data jsonb, is_super_admin boolean, created_at timestamptz, updated_at timestamptz,
  phone text default null unique, phone_confirmed_at timestamptz, phone_change text default '',
  phone_change_token varchar(255) default '', phone_change_sent_at timestamptz,
  confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  email_change_token_current varchar(255) default '',
  email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
  banned_until timestamptz, reauthentication_token varchar(255) default '',
  reauthentication_sent_at timestamptz, is_sso_user boolean not null default false,
  deleted_at timestamptz, is_anonymous boolean not null default false
);
create unique index if not exists users_email_partial_key on auth.users (email) where is_sso_user = false;
alter table auth.users enable row level security;
alter table auth.users owner to supabase_auth_admin;
grant select, insert, update, delete, references, trigger, truncate on auth.users to postgres, dashboard_user;

-- 7. PostgREST schema-cache reload after DDL
create or replace function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql as $$
begin notify pgrst, 'reload schema'; end $$;
drop event trigger if exists pgrst_ddl_watch;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
drop event trigger if exists pgrst_drop_watch;
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_ddl_watch();

-- 8. Realtime's publication
do $$ begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
    alter publication supabase_realtime owner to postgres;
  end if;
end $$;

-- 9. pg_cron when the server has it preloaded (only in the database named by cron.database_name)
do $$ begin
  if exists (select from pg_available_extensions where name = 'pg_cron')
     and current_setting('shared_preload_libraries') like '%pg_cron%'
     and current_database() = current_setting('cron.database_name', true) then
    create extension if not exists pg_cron with schema pg_catalog;
    grant usage on schema cron to postgres with grant option;
    grant all on all tables in schema cron to postgres with grant option;
    revoke all on table cron.job from postgres;
    grant select on table cron.job to postgres with grant option;
  end if;
end $$;
