"""Commands that set an installation up and look at it: init, migrate, doctor, types."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from bridge.cli.common import provider_names, read_settings
from bridge.doctor import examine
from bridge.errors import SetupError
from bridge.init import DOCS, FILES, env_text, file_text, is_open_to_git, write_missing, write_new
from bridge.migrations import migrate as apply_migrations
from bridge.migrations import packaged_migrations, types_file
from bridge.providers import ADAPTERS
from bridge.settings import ENV_FILE, Settings

__all__ = ["doctor", "init", "migrate", "types"]

_MARK = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}

_AFTER = {
    "env": """\
Next, in the folder of that file:
  pgcheckout migrate   prepares the database
  pgcheckout doctor    says what is missing, and what to do
  pgcheckout serve     the bridge
  pgcheckout work      beside it: asks providers again, sends letters""",
    "systemd": f"Next: {DOCS}/install.md#systemd",
    "container": f"Next: {DOCS}/install.md#containers",
    "migrations": "Next: supabase db push",
}


def _provider(name: str) -> str:
    if name not in ADAPTERS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(ADAPTERS)}.")
    return name


def init(
    what: Annotated[
        Literal["env", "systemd", "container", "migrations"],
        typer.Argument(
            help="The settings; units of systemd; a Containerfile and a compose.yaml; or what is missing in"
            " supabase/migrations, for the Supabase CLI."
        ),
    ] = "env",
    provider: Annotated[
        list[str] | None,
        typer.Option(
            parser=_provider,
            metavar="NAME",
            help="With what this provider needs; repeat it for more, the first is the default one. Without it: stripe.",
            autocompletion=provider_names,
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Where the settings go, instead of .env.")
    ] = None,
) -> None:
    """Write an .env with all settings and their meaning, for you to fill in, and with secrets made for you.

    Or other files that an installation may want. Nothing that is there already is overwritten.
    """
    if what == "env":
        _init_env(file or Path(ENV_FILE), provider or ["stripe"])
    elif provider or file:
        raise typer.BadParameter("--provider and --file are for the settings.")
    elif what == "migrations":
        folder = Path("supabase", "migrations")
        _say(write_missing({folder / f"{each.version}_{each.name}.sql": each.sql for each in packaged_migrations()}))
    else:
        _say(write_missing({Path(name): file_text(name) for name in FILES[what]}))
    typer.echo(_AFTER[what])


def _say(written: list[Path]) -> None:
    for file in written:
        typer.echo(f"Written: {file}")
    if not written:
        typer.echo("All is there already.")


def _init_env(file: Path, providers: list[str]) -> None:
    write_new(file, env_text(list(dict.fromkeys(providers))), mode=0o600)
    typer.echo(f"Written: {file}, for you alone to read. Fill in what is empty at its beginning.")
    if file.name != ENV_FILE:
        typer.echo(f"Warning: only a file that is called {ENV_FILE} is read.", err=True)
    if is_open_to_git(file):
        typer.echo(f"Warning: git does not ignore it. Remedy: echo {file.name} >> .gitignore", err=True)


def migrate(
    database_url: Annotated[str | None, typer.Option(help="Instead of PGCHECKOUT_DATABASE_URL.")] = None,
) -> None:
    """Apply the packaged migrations and record them where the Supabase CLI looks."""
    settings = read_settings(**{"database_url": database_url} if database_url else {})
    applied = apply_migrations(_database_url(settings))
    for migration in applied:
        typer.echo(f"applied {migration.version}_{migration.name}")
    typer.echo(f"{len(applied)} applied; the database is up to date.")


def types() -> None:
    """Print TypeScript types for apps: the tables and functions that a signed-in user may use."""
    typer.echo(types_file().read_text("utf-8"), nl=False)


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
