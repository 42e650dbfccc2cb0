"""Commands that run until they are stopped: demo, serve, work."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from typing import Annotated

import typer
import uvicorn
from prometheus_client import start_http_server

from bridge.api.server import SERVER_OPTIONS
from bridge.cli.common import open_checkout, read_settings
from bridge.errors import SetupError
from bridge.jobs import Jobs
from bridge.logs import configure
from bridge.metrics import REGISTRY
from bridge.rpc import require_database
from bridge.settings import Settings
from bridge.worker import Worker

__all__ = ["demo", "serve", "work"]


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
            f"\n  The shop is open:  {stack.url}\n"
            f"  Dashboard:         {stack.url}/dashboard\n"
            f"  its admin token:   {stack.admin_token}\n"
            f"  Database:          {stack.database_url}\n\n  Ctrl-C closes it.\n"
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            typer.echo("Closing.")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the bridge over HTTP. With several workers, /metrics counts each by itself."""
    settings = read_settings()
    if workers > 1 and settings.sandbox_secret and not settings.sandbox_url:
        raise SetupError("The sandbox lives in one process.", "Use --workers 1, or set PGCHECKOUT_SANDBOX_URL.")
    require_database(settings)
    uvicorn.run(
        "bridge.api.app:app_from_environment", factory=True, host=host, port=port, workers=workers, **SERVER_OPTIONS
    )


def work(
    name: Annotated[
        str | None, typer.Option(help="Of this worker, in payment_health; by default its host and process.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics of this worker here.")] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for it to listen on.")] = "127.0.0.1",
) -> None:
    """Ask providers again about what is unsettled, expire sessions, send letters, tell of incidents; until stopped."""
    settings = read_settings()
    if metrics_port is not None:
        start_http_server(metrics_port, metrics_host, REGISTRY)
    asyncio.run(_work(settings, name or f"{socket.gethostname()}:{os.getpid()}"[-100:]))


async def _work(settings: Settings, name: str) -> None:
    stop = asyncio.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(ending, stop.set)
    async with open_checkout(settings, patient=True) as (rpc, checkout):
        await Worker(rpc, Jobs(rpc, checkout, settings), name=name).run(stop)
