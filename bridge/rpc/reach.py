"""Whether the database can be reached at all, and why not, in words."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bridge.errors import DatabaseUnavailable
from bridge.settings import Settings

__all__ = ["reach", "why_out_of_reach"]

PATIENCE_SECONDS = 5


async def reach(settings: Settings) -> None:
    """For those who wait for the answer: a pool would go on trying. Raises DatabaseUnavailable, which says why not.

    Without a database URL there is nothing to try here: the first call over HTTP will tell.
    """
    if settings.database_url is None:
        return
    url = settings.database_url.get_secret_value()
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=PATIENCE_SECONDS)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            why_out_of_reach(url, error), "Check PGCHECKOUT_DATABASE_URL, and whether Postgres runs there."
        ) from None
    await connection.close()


def why_out_of_reach(url: str, error: psycopg.OperationalError) -> str:
    """One sentence without the password: ``The database at 127.0.0.1:5432 cannot be reached: Connection refused.``"""
    where = conninfo_to_dict(url)
    place = f"{where.get('host') or 'this machine'}:{where.get('port') or 5432}"
    lines = [line.strip(" -\t") for line in str(error).splitlines() if line.strip()]
    # libpq tells of each address that it tried: the last part of the first such line says what is wrong
    told = next((line for line in lines if "failed: " in line), lines[0] if lines else "no reason was given")
    return f"The database at {place} cannot be reached: {told.rpartition('failed: ')[2].rstrip('.')}."
