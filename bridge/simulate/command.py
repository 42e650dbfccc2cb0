"""The command ``pgcheckout simulate``: options, consent, cleaning up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console

from bridge.console import console_for
from bridge.errors import InvalidRequest, SetupError
from bridge.simulate.accounts import chosen_providers
from bridge.simulate.database import PREFIX, Database, local_database, survey
from bridge.simulate.display import json_of, show_report, watching
from bridge.simulate.faults import FAULTS, chosen
from bridge.simulate.run import Options, Report, simulate

__all__ = ["simulate_command"]

_STOPPED = 130


def simulate_command(  # noqa: PLR0917 # typer calls it by name
    purchases: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many.")] = 200,
    seed: Annotated[int | None, typer.Option(help="The same seed plays the same plan; by default a new one.")] = None,
    faults: Annotated[str, typer.Option(help=f"all, none, or some of: {', '.join(FAULTS)}.")] = "all",
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="How likely each fault is, per purchase.")] = 0.2,
    providers: Annotated[
        str, typer.Option(help="all, or some of: stripe, paystack, click, hypay, paypal, sandbox.")
    ] = "all",
    concurrency: Annotated[int, typer.Option(min=1, max=100, help="Purchases at once.")] = 8,
    schedule: Annotated[
        Literal["quick", "default"],
        typer.Option(
            help="When providers are asked about what nobody told: quick (after 2 s), or as shipped (after 1 min)."
        ),
    ] = "quick",
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON.")] = False,
    logs: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep here what bridges and workers write.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Play on this database instead of an embedded one. Never on one in production.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes-i-mean-this-database", help="Do not ask about it.")] = False,
    despite_sales: Annotated[
        bool, typer.Option("--despite-real-sales", help="Play on it although it has sold things.")
    ] = False,
) -> None:
    """Play purchases with everything that can go wrong, and prove that nothing is lost or doubled; exit 1 if so."""
    options = Options(
        purchases=purchases,
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        faults=chosen(faults),
        rate=rate,
        providers=chosen_providers(providers),
        concurrency=concurrency,
        schedule=schedule,
        logs=logs.resolve() if logs else None,
    )
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # answers that are lost on purpose are no news
    console = console_for(stderr=as_json)
    try:
        with (
            _every_ending_cleans_up(),
            _database(console, options, database_url, yes=yes, despite_sales=despite_sales) as database,
        ):
            report = _play(console, options, database)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left behind.")
        raise typer.Exit(_STOPPED) from None
    if as_json:
        typer.echo(json_of(report))
    else:
        show_report(console, report)
    raise typer.Exit(0 if report.verdict.is_good else 1)


@contextlib.contextmanager
def _every_ending_cleans_up() -> Iterator[None]:
    """SIGTERM and a closed terminal end the command as Ctrl-C does: no process is left behind."""
    before = {ending: signal.signal(ending, signal.default_int_handler) for ending in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


def _play(console: Console, options: Options, database: Database) -> Report:
    async def play() -> Report:
        task = asyncio.current_task()
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if task:
                asyncio.get_running_loop().add_signal_handler(ending, task.cancel)
        with watching(console, options) as watcher:
            return await simulate(options, database, watcher)

    try:
        return asyncio.run(play())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _database(
    console: Console, options: Options, url: str | None, *, yes: bool, despite_sales: bool
) -> Iterator[Database]:
    if url is None:
        console.print(f"seed {options.seed}; starting a Postgres of its own ...")
        with local_database(options.schedule) as database:
            yield database
        return
    _consent(console, options, url, yes=yes, despite_sales=despite_sales)
    database = Database(url)
    try:
        yield database
    finally:
        database.close_shop()


def _consent(console: Console, options: Options, url: str, *, yes: bool, despite_sales: bool) -> None:
    """Refuse, or ask. Raises SetupError."""
    found = survey(url)
    if found.open:
        raise SetupError(
            f"{found.open} sessions in this database are not of a simulation and not settled.",
            "Simulated providers would be asked about them. Use another database.",
        )
    if found.sold and not despite_sales:
        raise SetupError(
            f"This database has sold things: {found.sold} completed sessions are not of a simulation.",
            "Use another one; --despite-real-sales plays on it all the same.",
        )
    if missing := sorted(set(options.providers) - set(found.providers)):
        raise InvalidRequest(f"payments.settings does not allow {missing[0]}.", "Leave it out with --providers.")
    if options.schedule != "default":
        raise InvalidRequest("The settings of a named database stay as they are.", "Say --schedule default.")
    console.print(_intention(options, url, found.sold), soft_wrap=True)
    if not (yes or (sys.stdin.isatty() and typer.confirm("Go on?"))):
        raise SetupError("Nothing was done.", "--yes-i-mean-this-database says yes without being asked.")


def _intention(options: Options, url: str, sold: int) -> str:
    lines = [
        f"This database will be changed: {_without_password(url)}",
        f"- {options.purchases} users ({PREFIX}...@example.test) and 4 products ({PREFIX}...) are made;"
        " the products are switched off at the end.",
        f"- {options.purchases} purchases are played; their sessions, captures, credits and documents stay,"
        " and they use up invoice numbers.",
        "- Bridges and workers of the simulation run on it, with simulated providers; stop your own meanwhile.",
        "- Existing rows are not touched. Connections of the simulation are cut, no others.",
    ]
    if sold:
        lines.append(f"- It has {sold} completed sessions that are real, or were.")
    return "\n".join(lines)


def _without_password(url: str) -> str:
    parts = conninfo_to_dict(url)
    return f"{parts.get('dbname', '')} on {parts.get('host', 'this machine')} as {parts.get('user', '')}"
