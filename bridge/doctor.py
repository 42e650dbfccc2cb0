"""Looks at an installation and says, for each finding, what to do."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict

from bridge.errors import PgcheckoutError, SetupError
from bridge.migrations import packaged_migrations, pending_migrations
from bridge.providers import ADAPTERS, enabled_names, missing_settings
from bridge.rpc import connect_rpc
from bridge.settings import Settings

__all__ = ["Finding", "examine"]

OLDEST_POSTGRES = 150_000
CLOCK_SKEW_SECONDS = 30.0
TRANSACTION_POOLER_PORT = "6543"  # Supavisor's, and PgBouncer's, on Supabase

_GRANT = re.compile(r"^grant execute on function (\S+?)\([^)]*\)\s+to ([\w, ]+);", re.MULTILINE)

# users call what the migrations grant them, and write to no table
_WRONG_GRANTS = """
with ours as (
    select p.oid, n.nspname || '.' || p.proname as name, n.nspname,
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

select role || ' can execute ' || name
from ours, unnest(array['anon', 'authenticated']) as role
where has_function_privilege(role, oid, 'execute') and not (role = 'authenticated' and for_users)
union all
select 'authenticated cannot execute ' || name
from ours
where for_users and not has_function_privilege('authenticated', oid, 'execute')
union all
select 'service_role cannot execute ' || name
from ours
where nspname = 'public' and not has_function_privilege('service_role', oid, 'execute')
union all
select role || ' can write to ' || name
from our_tables, unnest(array['anon', 'authenticated']) as role
where has_table_privilege(role, oid, 'insert, update, delete')
union all
select 'row-level security is off on ' || name
from our_tables
where not relrowsecurity
"""

_EXPOSED = """
select exists (
    select from pg_db_role_setting as s, unnest(s.setconfig) as setting
    where setting ~ '^pgrst\\.db_schemas=' and setting ~ '\\mpayments\\M'
)
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    subject: str
    message: str
    remedy: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Everything that can be checked from here."""
    for finding in (*_names(), *_addresses(settings), *_providers(settings)):
        yield finding
    yield await _tokens(settings)
    reached = True
    if settings.database_url:
        for finding in _database(settings.database_url.get_secret_value(), settings.database_role):
            reached = reached and not (finding.subject == "postgres" and finding.level == "error")
            yield finding
    if reached:
        yield await _bridge_path(settings)


def _names() -> Iterator[Finding]:
    known = {f"PGCHECKOUT_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith("PGCHECKOUT_") and name not in known:
            yield Finding(
                "warning",
                "settings",
                f"{name} is not a setting.",
                "Look for a typing error; docs/settings.md lists them.",
            )


def _addresses(settings: Settings) -> Iterator[Finding]:
    production = settings.environment == "production"
    for name in ("public_url", "success_url", "cancel_url"):
        url = getattr(settings, name)
        if production and (url.scheme != "https" or url.host in ("127.0.0.1", "localhost")):
            remedy = f"Set PGCHECKOUT_{name.upper()} to the public https address."
            yield Finding("error", name, f"{url} cannot be reached from outside.", remedy)
        else:
            yield Finding("ok", name, str(url))


def _providers(settings: Settings) -> Iterator[Finding]:
    half_set = False
    for name, adapter in ADAPTERS.items():
        missing = [f"PGCHECKOUT_{setting.upper()}" for setting in missing_settings(settings, name)]
        if missing and len(missing) < len(adapter.needs):
            half_set = True
            names, are = " and ".join(missing), "are" if missing[1:] else "is"
            yield Finding("error", name, f"{names} {are} missing, so {adapter.title} is off.", f"Set {names}.")
        elif not missing:
            yield from _stripe(settings) if name == "stripe" else [_switched_on(name, settings)]
    on = enabled_names(settings)
    if not on and not half_set:
        yield Finding("error", "providers", "No payment provider is on.", "Set the secrets of one, Stripe's say.")
    elif on and settings.default_provider not in on:
        remedy = "Turn it on, or set PGCHECKOUT_DEFAULT_PROVIDER to one that is."
        yield Finding("error", "providers", f"The default provider {settings.default_provider} is off.", remedy)


def _switched_on(name: str, settings: Settings) -> Finding:
    """Play money in production pays for real goods: where the settings show the mode, it must fit."""
    if name == "paystack":
        return _mode(
            name, settings, live=not settings.paystack_secret_keys[0].get_secret_value().startswith("sk_test_")
        )
    if name == "hypay":  # live terminals start with another digit than 0
        return _mode(name, settings, live=not str(settings.hypay_terminal).startswith("0"))
    return Finding("ok", name, "on")


def _stripe(settings: Settings) -> Iterator[Finding]:
    key = settings.stripe_secret_key.get_secret_value() if settings.stripe_secret_key else ""
    if not key.startswith(("sk_test_", "sk_live_", "rk_test_", "rk_live_")):
        yield Finding("error", "stripe", "The API key has not the form of one.", "It starts with sk_ or rk_.")
    if any(not secret.get_secret_value().startswith("whsec_") for secret in settings.stripe_webhook_secrets):
        remedy = "PGCHECKOUT_STRIPE_WEBHOOK_SECRETS holds the endpoint's signing secret, whsec_…"
        yield Finding("error", "stripe", "A webhook secret has not the form of one.", remedy)
    yield _mode("stripe", settings, live="_live_" in key)


def _mode(name: str, settings: Settings, *, live: bool) -> Finding:
    odd = live != (settings.environment == "production")
    remedy = "Use test keys in development and live keys in production." if odd else ""
    mode = "live" if live else "test"
    return Finding("warning" if odd else "ok", name, f"on, {mode} mode, {settings.environment}", remedy)


async def _tokens(settings: Settings) -> Finding:
    url = settings.keys_url
    if url is not None:
        try:
            async with httpx.AsyncClient(timeout=10.0) as client:
                keys = (await client.get(url)).raise_for_status().json()["keys"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return Finding("error", "user tokens", f"No keys at {url} ({type(error).__name__}).", "Check the address.")
        if keys or settings.jwt_secret:
            return Finding("ok", "user tokens", f"{len(keys)} public keys")
        return Finding(
            "error", "user tokens", f"{url} has no keys.", "Rotate to signing keys, or set PGCHECKOUT_JWT_SECRET."
        )
    if settings.jwt_secret:
        return Finding("ok", "user tokens", "legacy HS256 secret")
    return Finding(
        "error",
        "user tokens",
        "No way to check them.",
        "Set PGCHECKOUT_SUPABASE_URL, PGCHECKOUT_JWKS_URL or PGCHECKOUT_JWT_SECRET.",
    )


async def _bridge_path(settings: Settings) -> Finding:
    try:
        rpc = await connect_rpc(settings)
        try:
            await rpc.check()
        finally:
            await rpc.close()
    except PgcheckoutError as error:
        remedy = error.hint if "doctor" not in error.hint else "Run `pgcheckout migrate` and check the grants below."
        return Finding("error", "functions", error.message, remedy)
    path = "psycopg" if settings.database_url else "supabase-py"
    return Finding("ok", "functions", f"can be called over {path}")


def _database(url: str, role: str) -> Iterator[Finding]:
    try:
        if role and str(conninfo_to_dict(url).get("port")) == TRANSACTION_POOLER_PORT:
            remedy = "Set PGCHECKOUT_DATABASE_ROLE= (empty) and log in as a role of its own, or connect directly."
            yield Finding("error", "pooler", "A role set on a pooled connection leaks to its other users.", remedy)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            yield from _server(connection)
            if not role:
                yield from _login(connection)
    except SetupError as error:
        yield Finding("error", "postgres", error.message, error.hint)
    except psycopg.OperationalError as error:
        why = f"cannot be reached: {str(error).splitlines()[0]}"
        yield Finding("error", "postgres", why, "Check PGCHECKOUT_DATABASE_URL.")


def _login(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Behind a pooler, the role that logs in must bring what the bridge sets by itself elsewhere."""
    found = connection.execute(
        "select current_setting('default_transaction_isolation'),"
        " '0' in (current_setting('statement_timeout'), current_setting('lock_timeout'))"
    ).fetchone()
    isolation, unlimited = found or ("unknown", True)
    remedy = "Give the role that logs in its settings, as docs/runbook.md says (Behind a pooler)."
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
    yield _clock(connection)


def _grants(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    wrong = [str(text) for (text,) in connection.execute(_WRONG_GRANTS, (_granted_to_users(),))]
    if wrong:
        yield Finding("error", "grants", "; ".join(wrong), "Restore them as the migrations set them.")
    else:
        yield Finding("ok", "grants", "as the migrations set them")
    if connection.execute(_EXPOSED).fetchone() == (True,):
        remedy = "Remove it from the API's exposed schemas: its tables and functions are internal."
        yield Finding("error", "exposed schemas", "PostgREST exposes the schema payments.", remedy)


def _granted_to_users() -> list[str]:
    """Functions that the migrations grant to signed-in users; of several grants the last one counts."""
    grants: dict[str, str] = {}
    for migration in packaged_migrations():
        grants |= dict(_GRANT.findall(migration.sql))
    return [function for function, roles in grants.items() if "authenticated" in roles]


def _clock(connection: psycopg.Connection[Any]) -> Finding:
    (seconds,) = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone() or (0.0,)
    skew = abs(time.time() - float(seconds))
    if skew > CLOCK_SKEW_SECONDS:
        remedy = "Synchronise this machine's clock (NTP): signatures are refused when they look too old."
        return Finding("warning", "clock", f"{skew:.0f} s away from the database's", remedy)
    return Finding("ok", "clock", "agrees with the database's")
