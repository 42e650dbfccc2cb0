"""The only door to the database: the functions of docs/functions.md, over psycopg or supabase-py, with one behaviour.

A transport calls one function in one transaction and raises this package's errors; :class:`Rpc` gives the functions
their Python shapes.
"""

from __future__ import annotations

from bridge.errors import SetupError
from bridge.rpc.functions import (
    Alert,
    AttemptName,
    Change,
    Claim,
    DeadLetter,
    Due,
    Failure,
    Letter,
    Moment,
    Rpc,
    SessionFilter,
)
from bridge.rpc.postgres import PostgresTransport
from bridge.rpc.supabase import SupabaseTransport
from bridge.rpc.transport import Transport
from bridge.settings import Settings

__all__ = [
    "Alert",
    "AttemptName",
    "Change",
    "Claim",
    "DeadLetter",
    "Due",
    "Failure",
    "Letter",
    "Moment",
    "PostgresTransport",
    "Rpc",
    "SessionFilter",
    "SupabaseTransport",
    "Transport",
    "connect_rpc",
    "require_database",
]


def require_database(settings: Settings) -> None:
    """Raises SetupError when the settings name no way to the database."""
    if not settings.database_url and not (settings.supabase_url and settings.supabase_service_key):
        raise SetupError(
            "No way to the database.",
            "Set PGCHECKOUT_DATABASE_URL, or PGCHECKOUT_SUPABASE_URL and PGCHECKOUT_SUPABASE_SERVICE_KEY.",
        )


async def connect_rpc(settings: Settings) -> Rpc:
    """The direct path when there is a database URL, else the HTTP path. Raises SetupError when there is neither."""
    require_database(settings)
    if settings.database_url:
        transport: Transport = await PostgresTransport.connect(settings)
    else:
        transport = await SupabaseTransport.connect(settings)
    return Rpc(transport, outcomes_per_call=settings.outcomes_per_call)
