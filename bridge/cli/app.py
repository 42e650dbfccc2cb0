"""The table of commands, and what happens when one cannot do its work."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pkgutil import resolve_name
from typing import Annotated

import typer

from bridge import __version__
from bridge.errors import DatabaseUnavailable, PgcheckoutError

__all__ = ["COMMANDS", "app_of", "run"]

_ID = "01a1fb90-dc7c-76f1-b2de-d2e9ec74b96d"
_SHARDS = "--shards postgresql://postgres@db0/postgres --shards postgresql://postgres@db1/postgres"

# where each one is, and examples: whole command lines, which a test proves it takes
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "demo": ("bridge.cli.running:demo", "pgcheckout demo", "pgcheckout demo --once"),
    "simulate": (
        "bridge.simulate.command:simulate_command",
        "pgcheckout simulate --purchases 1000",
        "pgcheckout simulate --seed 3 --faults drop,vanish --providers stripe,paypal",
    ),
    "serve": (
        "bridge.cli.running:serve",
        "pgcheckout serve",
        "pgcheckout serve --host 0.0.0.0 --port 8000 --workers 4",
    ),
    "work": (
        "bridge.cli.running:work",
        "pgcheckout work",
        "pgcheckout work --name worker-1 --metrics-port 9100",
    ),
    "init": (
        "bridge.cli.setting_up:init",
        "pgcheckout init",
        "pgcheckout init --provider stripe --provider paypal",
        "pgcheckout init systemd",
    ),
    "migrate": (
        "bridge.cli.setting_up:migrate",
        "pgcheckout migrate",
        "pgcheckout migrate --database-url postgresql://postgres@127.0.0.1/postgres",
    ),
    "doctor": ("bridge.cli.setting_up:doctor", "pgcheckout doctor", "pgcheckout doctor && pgcheckout serve"),
    "types": ("bridge.cli.setting_up:types", "pgcheckout types > src/database.types.ts"),
    "shard-router": (
        "bridge.sharding.command:shard_router_command",
        f"pgcheckout shard-router {_SHARDS} > router.sql",
        f"pgcheckout shard-router {_SHARDS} --apply postgresql://postgres@router/postgres",
    ),
    "shard-move": (
        "bridge.sharding.command:shard_move_command",
        f"pgcheckout shard-move 0-127,793 --to 1 --router postgresql://postgres@router/postgres {_SHARDS}",
    ),
    "report": (
        "bridge.cli.reading:report",
        "pgcheckout report",
        "pgcheckout report --days 30 --html report.html",
        "pgcheckout report --days 90 --csv > report.csv",
    ),
    "sessions": (
        "bridge.cli.reading:sessions",
        "pgcheckout sessions --review",
        "pgcheckout sessions --status failed --provider stripe --since 2d",
        "pgcheckout sessions --since 30d --limit 100000 --csv > sessions.csv",
    ),
    "session": (
        "bridge.cli.reading:session",
        f"pgcheckout session {_ID}",
        f"pgcheckout session {_ID.replace('-', '')} --json",
    ),
    "verify": ("bridge.cli.operating:verify", f"pgcheckout verify {_ID}"),
    "reconcile": (
        "bridge.cli.operating:reconcile",
        "pgcheckout reconcile --since 2d",
        "pgcheckout reconcile --provider stripe --limit 100 --json",
    ),
    "refund": (
        "bridge.cli.operating:refund",
        f"pgcheckout refund {_ID}",
        f"pgcheckout refund {_ID} --amount 500 --reason late --key ticket-1",
    ),
    "replay": (
        "bridge.cli.operating:replay",
        "pgcheckout replay",
        "pgcheckout replay stripe evt_1OqXyZ",
        "pgcheckout replay --all",
    ),
}


def app_of(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands."""
    app = typer.Typer(
        name="pgcheckout",
        help="Checkout sessions for Supabase: every paid session is fulfilled exactly once.",
        epilog="Examples of a command: pgcheckout COMMAND --help. Tab completes: pgcheckout --install-completion.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        callback=_options,
    )
    for name in names:
        place, *examples = COMMANDS[name]
        # paragraphs, because lines of one would be joined
        app.command(name, epilog="\n\n".join(("Examples:", *examples)))(resolve_name(place))
    return app


def run() -> None:
    """Run the command; an expected error is one line, not a trace. Exit 2 when only the database was out of reach."""
    # a server need not hold what all the other commands consist of
    wanted = [name for name in sys.argv[1:2] if name in COMMANDS]
    try:
        app_of(wanted or COMMANDS)()
    except PgcheckoutError as error:
        typer.echo(f"pgcheckout: {error.message} {error.hint}".rstrip(), err=True)
        sys.exit(2 if isinstance(error, DatabaseUnavailable) else 1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgcheckout {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
