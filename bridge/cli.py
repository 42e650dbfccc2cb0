"""The command ``pgcheckout``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

import typer
import uvicorn

from bridge import __version__
from bridge.checkout import Checkout
from bridge.doctor import examine
from bridge.errors import PgcheckoutError, SetupError
from bridge.jobs import Jobs
from bridge.migrations import migrate as apply_migrations
from bridge.news import News
from bridge.providers import enabled_providers
from bridge.providers.http import new_client
from bridge.refunds import Refunds
from bridge.rpc import Rpc, connect_rpc, require_database
from bridge.settings import Settings, load_settings
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


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the bridge over HTTP. With several workers, /metrics counts each by itself."""
    settings = load_settings()
    if workers > 1 and settings.sandbox_secret and not settings.sandbox_url:
        raise SetupError("The sandbox lives in one process.", "Use --workers 1, or set PGCHECKOUT_SANDBOX_URL.")
    require_database(settings)
    uvicorn.run(
        "bridge.api.app:app_from_environment", factory=True, host=host, port=port, workers=workers,
        proxy_headers=False,  # PGCHECKOUT_TRUSTED_PROXIES says whom to believe
    )  # fmt: skip


@app.command()
def migrate(
    database_url: Annotated[str | None, typer.Option(help="Instead of PGCHECKOUT_DATABASE_URL.")] = None,
) -> None:
    """Apply the packaged migrations and record them where the Supabase CLI looks."""
    settings = load_settings(**{"database_url": database_url} if database_url else {})
    applied = apply_migrations(_database_url(settings))
    for migration in applied:
        typer.echo(f"applied {migration.version}_{migration.name}")
    typer.echo(f"{len(applied)} applied; the database is up to date.")


@app.command()
def verify(session_id: Annotated[UUID, typer.Argument(help="Id of a checkout session.")]) -> None:
    """Ask the provider about a session, apply its answer and print what is known."""
    _run(_verify(load_settings(), session_id))


@app.command()
def work(
    name: Annotated[str, typer.Option(help="Of this worker, in payment_health.")] = "worker",
) -> None:
    """Ask providers again about what is unsettled, expire sessions, queue reminders; until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _run(_work(load_settings(), name))


@app.command()
def refund(
    session_id: Annotated[UUID, typer.Argument(help="Id of a checkout session.")],
    amount: Annotated[int | None, typer.Option(help="Minor units; by default all that is left.")] = None,
    reason: Annotated[str | None, typer.Option(help="Kept with the refund.")] = None,
    key: Annotated[str | None, typer.Option(help="The same key never gives money back twice.")] = None,
) -> None:
    """Give money back through the provider, record it and print what became of it."""
    _run(_refund(load_settings(), session_id, amount, reason, key))


@app.command()
def replay(
    provider: Annotated[str | None, typer.Argument(help="Of this provider only.")] = None,
    event: Annotated[str | None, typer.Argument(help="This event only.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one of them, oldest first.")] = False,
) -> None:
    """List the webhooks that could not be applied, or handle one, or --all of them, again."""
    _run(_replay(load_settings(), provider, event, everything=everything))


@app.command()
def doctor() -> None:
    """Check settings, database, migrations, grants, providers and clock; exit 1 when something must be done."""
    _run(_doctor(load_settings()))


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


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise SetupError("PGCHECKOUT_DATABASE_URL is not set.", "Migrations need a direct connection as postgres.")
    return settings.database_url.get_secret_value()


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
