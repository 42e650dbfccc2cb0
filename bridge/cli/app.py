"""The table of commands, and what happens when one cannot do its work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from bridge import __version__
from bridge.cli.operating import reconcile, refund, replay, verify
from bridge.cli.reading import report, session, sessions
from bridge.cli.running import demo, serve, work
from bridge.cli.setting_up import doctor, init, migrate, types
from bridge.errors import DatabaseUnavailable, PgcheckoutError
from bridge.sharding.command import shard_move_command, shard_router_command
from bridge.simulate.command import simulate_command

__all__ = ["app", "main"]

_ID = "01a1fb90-dc7c-76f1-b2de-d2e9ec74b96d"
_SHARDS = "--shards postgresql://postgres@db0/postgres --shards postgresql://postgres@db1/postgres"

app = typer.Typer(
    name="pgcheckout",
    help="Checkout sessions for Supabase: every paid session is fulfilled exactly once.",
    epilog="Examples of a command: pgcheckout COMMAND --help. Tab completes: pgcheckout --install-completion.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _add(command: Callable[..., None], *examples: str, name: str | None = None) -> None:
    """Add a command. Each example is a whole command line; a test proves that the command takes it."""
    # paragraphs, because lines of one would be joined
    app.command(name, epilog="\n\n".join(("Examples:", *examples)))(command)


_add(demo, "pgcheckout demo", "pgcheckout demo --once")
_add(
    simulate_command,
    "pgcheckout simulate --purchases 1000",
    "pgcheckout simulate --seed 3 --faults drop,vanish --providers stripe,paypal",
    name="simulate",
)
_add(serve, "pgcheckout serve", "pgcheckout serve --host 0.0.0.0 --port 8000 --workers 4")
_add(work, "pgcheckout work", "pgcheckout work --name worker-1 --metrics-port 9100")
_add(
    init,
    "pgcheckout init",
    "pgcheckout init --provider stripe --provider paypal",
    "pgcheckout init systemd",
)
_add(
    migrate,
    "pgcheckout migrate",
    "pgcheckout migrate --database-url postgresql://postgres@127.0.0.1/postgres",
)
_add(doctor, "pgcheckout doctor", "pgcheckout doctor && pgcheckout serve")
_add(types, "pgcheckout types > src/database.types.ts")
_add(
    shard_router_command,
    f"pgcheckout shard-router {_SHARDS} > router.sql",
    f"pgcheckout shard-router {_SHARDS} --apply postgresql://postgres@router/postgres",
    name="shard-router",
)
_add(
    shard_move_command,
    f"pgcheckout shard-move 0-127,793 --to 1 --router postgresql://postgres@router/postgres {_SHARDS}",
    name="shard-move",
)
_add(
    report,
    "pgcheckout report",
    "pgcheckout report --days 30 --html report.html",
    "pgcheckout report --days 90 --csv > report.csv",
)
_add(
    sessions,
    "pgcheckout sessions --review",
    "pgcheckout sessions --status failed --provider stripe --since 2d",
    "pgcheckout sessions --since 30d --limit 100000 --csv > sessions.csv",
)
_add(session, f"pgcheckout session {_ID}", f"pgcheckout session {_ID.replace('-', '')} --json")
_add(verify, f"pgcheckout verify {_ID}")
_add(reconcile, "pgcheckout reconcile --since 2d", "pgcheckout reconcile --provider stripe --limit 100 --json")
_add(
    refund,
    f"pgcheckout refund {_ID}",
    f"pgcheckout refund {_ID} --amount 500 --reason late --key ticket-1",
)
_add(replay, "pgcheckout replay", "pgcheckout replay stripe evt_1OqXyZ", "pgcheckout replay --all")


def main() -> None:
    """Run the command; an expected error is one line, not a trace. Exit 2 when only the database was out of reach."""
    try:
        app()
    except PgcheckoutError as error:
        typer.echo(f"pgcheckout: {error.message} {error.hint}".rstrip(), err=True)
        sys.exit(2 if isinstance(error, DatabaseUnavailable) else 1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgcheckout {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
