"""The command ``pgcheckout``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
import uvicorn
from prometheus_client import start_http_server

from bridge import __version__
from bridge.api.server import SERVER_OPTIONS
from bridge.checkout import Checkout
from bridge.doctor import examine
from bridge.errors import PgcheckoutError, SetupError
from bridge.jobs import Jobs, ask_about, unsettled_pages
from bridge.logs import configure
from bridge.metrics import REGISTRY
from bridge.migrations import migrate as apply_migrations
from bridge.news import News
from bridge.progress import Tally, bar, read_duration, show
from bridge.providers import enabled_providers
from bridge.providers.http import new_client
from bridge.refunds import Refunds
from bridge.rpc import Rpc, connect_rpc, require_database
from bridge.settings import Settings, load_settings
from bridge.simulate.command import simulate_command
from bridge.worker import Worker

__all__ = ["main"]

app = typer.Typer(
    name="pgcheckout",
    help="Checkout sessions for Supabase: every paid session is fulfilled exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_MARK = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def main() -> None:
    """Run the command; an expected error is one line, not a trace."""
    try:
        app()
    except PgcheckoutError as error:
        typer.echo(f"pgcheckout: {error.message} {error.hint}".rstrip(), err=True)
        sys.exit(1)


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


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="One purchase without a browser, then stop.")] = False,
    port: Annotated[int, typer.Option(help="Port of the shop; a free one when it is taken.")] = 8000,
) -> None:
    """Run a shop, the sandbox provider and an embedded Postgres on this machine."""
    # needs the extra `demo`, which a production installation leaves out
    from bridge.demo.purchase import buy_once  # noqa: PLC0415
    from bridge.demo.stack import running_stack  # noqa: PLC0415

    for ending in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave a Postgres behind
        signal.signal(ending, lambda *_: sys.exit(1))
    with running_stack(0 if once else port) as stack:
        configure(stack.settings, level="warning")
        if once:
            good = buy_once(stack, typer.echo)
            typer.echo("exactly one fulfilment" if good else "NOT exactly one fulfilment")
            raise typer.Exit(0 if good else 1)
        typer.echo(
            f"\n  The shop is open:  {stack.url}\n  Database:          {stack.database_url}\n\n  Ctrl-C closes it.\n"
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            typer.echo("Closing.")


app.command("simulate")(simulate_command)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the bridge over HTTP. With several workers, /metrics counts each by itself."""
    settings = _settings()
    if workers > 1 and settings.sandbox_secret and not settings.sandbox_url:
        raise SetupError("The sandbox lives in one process.", "Use --workers 1, or set PGCHECKOUT_SANDBOX_URL.")
    require_database(settings)
    uvicorn.run(
        "bridge.api.app:app_from_environment", factory=True, host=host, port=port, workers=workers, **SERVER_OPTIONS
    )


@app.command()
def migrate(
    database_url: Annotated[str | None, typer.Option(help="Instead of PGCHECKOUT_DATABASE_URL.")] = None,
) -> None:
    """Apply the packaged migrations and record them where the Supabase CLI looks."""
    settings = _settings(**{"database_url": database_url} if database_url else {})
    applied = apply_migrations(_database_url(settings))
    for migration in applied:
        typer.echo(f"applied {migration.version}_{migration.name}")
    typer.echo(f"{len(applied)} applied; the database is up to date.")


@app.command()
def verify(session_id: Annotated[UUID, typer.Argument(help="Id of a checkout session.")]) -> None:
    """Ask the provider about a session, apply its answer and print what is known."""
    _run(_verify(_settings(), session_id))


def _duration(text: str) -> timedelta:
    try:
        return read_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def reconcile(
    since: Annotated[
        timedelta | None,
        typer.Option(parser=_duration, metavar="2d", help="Sessions made since then (90m, 36h, 2d), due or not."),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Of this provider only.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pages.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON.")] = False,
) -> None:
    """Ask the providers about unsettled pages now and show what became of them; without --since, those that are due.

    Safe beside workers: what one of them completes meanwhile counts as repaired. Exit 1 when a provider failed.
    """
    _run(_reconcile(_settings(), since, provider, limit, as_json=as_json))


@app.command()
def work(
    name: Annotated[
        str | None, typer.Option(help="Of this worker, in payment_health; by default its host and process.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics of this worker here.")] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for it to listen on.")] = "127.0.0.1",
) -> None:
    """Ask providers again about what is unsettled, expire sessions, send letters, tell of incidents; until stopped."""
    settings = _settings()
    if metrics_port is not None:
        start_http_server(metrics_port, metrics_host, REGISTRY)
    _run(_work(settings, name or f"{socket.gethostname()}:{os.getpid()}"[-100:]))


@app.command()
def refund(
    session_id: Annotated[UUID, typer.Argument(help="Id of a checkout session.")],
    amount: Annotated[int | None, typer.Option(help="Minor units; by default all that is left.")] = None,
    reason: Annotated[str | None, typer.Option(help="Kept with the refund.")] = None,
    key: Annotated[str | None, typer.Option(help="The same key never gives money back twice.")] = None,
) -> None:
    """Give money back through the provider, record it and print what became of it."""
    _run(_refund(_settings(), session_id, amount, reason, key))


@app.command()
def replay(
    provider: Annotated[str | None, typer.Argument(help="Of this provider only.")] = None,
    event: Annotated[str | None, typer.Argument(help="This event only.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one of them, oldest first.")] = False,
) -> None:
    """List the webhooks that could not be applied, or handle one, or --all of them, again."""
    _run(_replay(_settings(), provider, event, everything=everything))


@app.command()
def doctor() -> None:
    """Check settings, database, migrations, grants, providers and clock; exit 1 when something must be done."""
    _run(_doctor(_settings()))


@contextlib.asynccontextmanager
async def _checkout(settings: Settings) -> AsyncIterator[tuple[Rpc, Checkout]]:
    rpc = await connect_rpc(settings)
    try:
        async with new_client() as client:
            yield rpc, Checkout(rpc, enabled_providers(settings, client))
    finally:
        await rpc.close()


async def _verify(settings: Settings, session_id: UUID) -> None:
    async with _checkout(settings) as (_, checkout):
        known = await checkout.verify(None, "admin", session_id=session_id)
    answer = {
        "session_id": str(session_id),
        "payment_status": known.status,
        "verified": known.verified,
        "fulfilment_status": known.fulfilment_status,
        "fulfilment": known.fulfilment,
    }
    typer.echo(json.dumps(answer, indent=2))


async def _refund(
    settings: Settings, session_id: UUID, amount: int | None, reason: str | None, key: str | None
) -> None:
    async with _checkout(settings) as (rpc, checkout):
        done = await Refunds(rpc, checkout).give(session_id, amount=amount, reason=reason, key=key)
    typer.echo(json.dumps({**asdict(done), "session_id": str(session_id)}, indent=2))


async def _replay(settings: Settings, provider: str | None, event: str | None, *, everything: bool) -> None:
    async with _checkout(settings) as (rpc, checkout):
        failed = 0
        for failure in await rpc.list_webhook_failures(provider, event):
            became = failure.status
            if event or everything:
                try:
                    handled = await News(rpc, checkout).replayed(failure.provider, failure.event)
                    became = f"{handled.result} {handled.reason}".strip()
                    failed += handled.result == "refused"
                except PgcheckoutError as error:
                    became = f"{error.reason}: {error.message}"
                    failed += 1
            about = f"{failure.provider} {failure.event.id} ({failure.event.type}, {failure.received_at})"
            typer.echo(f"{about} {failure.error} -> {became}")
        if failed:
            raise typer.Exit(1)


async def _reconcile(
    settings: Settings, since: timedelta | None, provider: str | None, limit: int | None, *, as_json: bool
) -> None:
    tally = Tally()
    async with _checkout(settings) as (rpc, checkout):
        if provider:
            checkout.provider(provider)
        pages = await unsettled_pages(rpc, datetime.now(UTC) - since if since else None, provider, limit)
        with bar(len(pages)) as move_on:
            async with contextlib.aclosing(ask_about(rpc, checkout, pages)) as answers:
                async for asked in answers:
                    tally.add(asked)
                    move_on(tally)
    show(tally, as_json=as_json)
    if tally.failed:
        raise typer.Exit(1)


async def _work(settings: Settings, name: str) -> None:
    stop = asyncio.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(ending, stop.set)
    async with _checkout(settings) as (rpc, checkout):
        await Worker(rpc, Jobs(rpc, checkout, settings), name=name).run(stop)


async def _doctor(settings: Settings) -> None:
    errors = 0
    async for finding in examine(settings):
        errors += finding.level == "error"
        typer.echo(f"{_MARK[finding.level]}  {finding.subject}: {finding.message}")
        if finding.remedy:
            typer.echo(f"         -> {finding.remedy}")
    if errors:
        raise typer.Exit(1)


def _settings(**overrides: object) -> Settings:
    settings = load_settings(**overrides)
    configure(settings)
    return settings


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise SetupError("PGCHECKOUT_DATABASE_URL is not set.", "Migrations need a direct connection as postgres.")
    return settings.database_url.get_secret_value()


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
