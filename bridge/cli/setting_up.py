"""Commands that set an installation up and look at it: migrate, doctor."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from bridge.cli.common import read_settings
from bridge.doctor import examine
from bridge.errors import SetupError
from bridge.migrations import migrate as apply_migrations
from bridge.settings import Settings

__all__ = ["doctor", "migrate"]

_MARK = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def migrate(
    database_url: Annotated[str | None, typer.Option(help="Instead of PGCHECKOUT_DATABASE_URL.")] = None,
) -> None:
    """Apply the packaged migrations and record them where the Supabase CLI looks."""
    settings = read_settings(**{"database_url": database_url} if database_url else {})
    applied = apply_migrations(_database_url(settings))
    for migration in applied:
        typer.echo(f"applied {migration.version}_{migration.name}")
    typer.echo(f"{len(applied)} applied; the database is up to date.")


def doctor() -> None:
    """Check settings, database, migrations, grants, providers and clock; exit 1 when something must be done."""
    asyncio.run(_doctor(read_settings()))


async def _doctor(settings: Settings) -> None:
    errors = 0
    async for finding in examine(settings):
        errors += finding.level == "error"
        typer.echo(f"{_MARK[finding.level]}  {finding.subject}: {finding.message}")
        if finding.remedy:
            typer.echo(f"         -> {finding.remedy}")
    if errors:
        raise typer.Exit(1)


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise SetupError("PGCHECKOUT_DATABASE_URL is not set.", "Migrations need a direct connection as postgres.")
    return settings.database_url.get_secret_value()
