"""What a direct connection to the database shows: version, migrations, rights, schedules, clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bridge.doctor.finding import Finding
from bridge.errors import SetupError
from bridge.migrations import packaged_migrations, pending_migrations
from bridge.rpc.reach import why_out_of_reach

__all__ = ["look_at_database"]

OLDEST_POSTGRES = 150_000
CLOCK_SKEW_SECONDS = 30.0
TRANSACTION_POOLER_PORT = "6543"  # Supavisor's, and PgBouncer's, on Supabase

_GRANT = re.compile(r"^grant execute on function (\S+?)\([^)]*\)\s+to ([\w, ]+);", re.MULTILINE)

# users call what the migrations grant them, and write to no table
_WRONG_GRANTS = """
with ours as (
    select p.oid, n.nspname || '.' || p.proname as name, n.nspname,
        format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as signature,
        n.nspname || '.' || p.proname = any(%s) as for_users
    from pg_proc as p
    inner join pg_namespace as n on p.pronamespace = n.oid
    where n.nspname = 'payments' or (n.nspname = 'public' and p.prosrc ~ 'payments\\.')
),

our_tables as (
    select c.oid, c.oid::regclass::text as name, c.relrowsecurity
    from pg_class as c
    inner join pg_namespace as n on c.relnamespace = n.oid
    where c.relkind in ('r', 'p')
        and (n.nspname = 'payments' or (n.nspname = 'public' and c.relname like 'payment\\_%%'))
)

select
    role || ' can execute ' || name,
    format(
        'revoke execute on function %%s from public, anon%%s', signature,
        case when role = 'authenticated' then ', authenticated' else '' end
    )
from ours, unnest(array['anon', 'authenticated']) as role
where has_function_privilege(role, oid, 'execute') and not (role = 'authenticated' and for_users)
union all
select 'authenticated cannot execute ' || name, format('grant execute on function %%s to authenticated', signature)
from ours
where for_users and not has_function_privilege('authenticated', oid, 'execute')
union all
select 'service_role cannot execute ' || name, format('grant execute on function %%s to service_role', signature)
from ours
where nspname = 'public' and not has_function_privilege('service_role', oid, 'execute')
union all
select
    role || ' can write to ' || name, format('revoke insert, update, delete on table %%s from public, %%I', name, role)
from our_tables, unnest(array['anon', 'authenticated']) as role
where has_table_privilege(role, oid, 'insert, update, delete')
union all
select 'row-level security is off on ' || name, format('alter table %%s enable row level security', name)
from our_tables
where not relrowsecurity
"""

_EXPOSED = """
select exists (
    select from pg_db_role_setting as s, unnest(s.setconfig) as setting
    where setting ~ '^pgrst\\.db_schemas=' and setting ~ '\\mpayments\\M'
)
"""


def look_at_database(url: str, role: str) -> Iterator[Finding]:
    """Findings of one connection; ``role`` is the one that the bridge takes, empty for none."""
    try:
        if role and str(conninfo_to_dict(url).get("port")) == TRANSACTION_POOLER_PORT:
            remedy = "Set PGCHECKOUT_DATABASE_ROLE= (empty) and log in as a role of its own, or connect directly."
            yield Finding("error", "pooler", "A role set on a pooled connection leaks to its other users.", remedy)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            yield from _server(connection)
            yield from _role(connection, role) if role else _login(connection)
    except SetupError as error:
        yield Finding("error", "postgres", error.message, error.hint)
    except psycopg.OperationalError as error:
        remedy = "Check PGCHECKOUT_DATABASE_URL, and whether Postgres runs there."
        yield Finding("error", "postgres", why_out_of_reach(url, error), remedy)


def _role(connection: psycopg.Connection[Any], role: str) -> Iterator[Finding]:
    try:
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    except psycopg.errors.Error as error:
        user = connection.info.user
        inherited = connection.execute(
            "select 1 from pg_roles where rolname = %s and pg_has_role(oid, 'usage')", (role,)
        )
        remedy = f"As postgres: grant {role} to {user}; or log in with PGCHECKOUT_DATABASE_URL as postgres."
        if inherited.fetchone():
            remedy = f"Set PGCHECKOUT_DATABASE_ROLE={user}: it has the rights of {role} without becoming it."
        yield Finding("error", "role", f"{user} cannot become {role}: {error.diag.message_primary}.", remedy)


def _login(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Behind a pooler, the role that logs in must bring what the bridge sets by itself elsewhere."""
    found = connection.execute(
        "select current_setting('default_transaction_isolation'),"
        " '0' in (current_setting('statement_timeout'), current_setting('lock_timeout'))"
    ).fetchone()
    isolation, unlimited = found or ("unknown", True)
    remedy = "Give the role that logs in its settings, as docs/operations.md says (Who needs which rights)."
    if isolation != "read committed":
        yield Finding("error", "isolation", f"Calls would run under {isolation}.", remedy)
    if unlimited:
        yield Finding("warning", "time limits", "The role has no statement_timeout, or no lock_timeout.", remedy)


def _server(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    version = connection.info.server_version
    old = version < OLDEST_POSTGRES
    remedy = "PostgreSQL 15 or newer is needed." if old else ""
    yield Finding("error" if old else "ok", "postgres", f"version {version // 10_000}", remedy)
    pending = pending_migrations(connection)
    if pending:
        names = ", ".join(f"{migration.version}_{migration.name}" for migration in pending)
        yield Finding("error", "migrations", f"not applied: {names}", "Run `pgcheckout migrate`.")
    else:
        yield Finding("ok", "migrations", "all applied")
        yield from _grants(connection)
        yield from _schedules(connection)
    yield _clock(connection)


def _grants(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    wrong = connection.execute(_WRONG_GRANTS, (_granted_to_users(),)).fetchall()
    if wrong:
        statements = " ".join(f"{statement};" for statement in dict.fromkeys(statement for _, statement in wrong))
        yield Finding("error", "grants", "; ".join(said for said, _ in wrong), f"As postgres: {statements}")
    else:
        yield Finding("ok", "grants", "as the migrations set them")
    if connection.execute(_EXPOSED).fetchone() == (True,):
        remedy = "Remove it from the API's exposed schemas (Supabase: Settings, API). Its functions are internal."
        yield Finding("error", "exposed schemas", "PostgREST exposes the schema payments.", remedy)


def _granted_to_users() -> list[str]:
    """Functions that the migrations grant to signed-in users; of several grants the last one counts."""
    grants: dict[str, str] = {}
    for migration in packaged_migrations():
        grants |= dict(_GRANT.findall(migration.sql))
    return [function for function, roles in grants.items() if "authenticated" in roles]


def _schedules(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Workers do the same jobs, so pg_cron may be missing; but where it is, it was meant to be used."""
    try:
        if connection.execute("select to_regclass('cron.job') is null").fetchone() == (True,):
            return
        row = connection.execute("select count(*) from cron.job where jobname like 'pgcheckout-%'").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return
    if row == (0,):
        remedy = "As postgres: select payments.schedule_jobs();"
        yield Finding("warning", "pg_cron", "It is installed, and has no job of pgcheckout.", remedy)
    else:
        yield Finding("ok", "pg_cron", f"{row[0] if row else 0} jobs")


def _clock(connection: psycopg.Connection[Any]) -> Finding:
    (seconds,) = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone() or (0.0,)
    skew = abs(time.time() - float(seconds))
    if skew > CLOCK_SKEW_SECONDS:
        remedy = "Run `timedatectl set-ntp true` on this machine: signatures are refused when they look too old."
        return Finding("warning", "clock", f"{skew:.0f} s away from the database's", remedy)
    return Finding("ok", "clock", "agrees with the database's")
