"""Builds the ASGI application from settings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from bridge import __version__
from bridge.alerts import keep_watch
from bridge.api import admin, buyers, dashboard, errors, operations, providers
from bridge.api.context import Context
from bridge.api.edge import Edge, Limits
from bridge.api.health import Figures
from bridge.auth import Tokens
from bridge.checkout import Checkout
from bridge.jobs import Jobs
from bridge.logs import configure
from bridge.mail import Operator, ResumeLinks
from bridge.news import News
from bridge.providers import enabled_providers
from bridge.providers.http import new_client
from bridge.refunds import Refunds
from bridge.report.recent import Reports
from bridge.rpc import connect_rpc
from bridge.settings import Settings, load_settings

if TYPE_CHECKING:  # for development: others need not hold it
    from bridge.sandbox.server import SandboxServer

__all__ = ["app_from_environment", "create_app"]


def create_app(settings: Settings, *, watching: bool = True) -> FastAPI:
    """The bridge. It starts without its database and is ready (``/readyz``) once that answers.

    ``watching``: whether it looks for incidents by itself, as an installed one must.
    """
    sandbox = _sandbox(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(new_client())
            rpc = await connect_rpc(settings)
            stack.push_async_callback(rpc.close)
            if sandbox:
                stack.push_async_callback(sandbox.close)
            checkout = Checkout(rpc, enabled_providers(settings, client))
            app.state.context = Context(
                settings=settings,
                rpc=rpc,
                checkout=checkout,
                news=News(rpc, checkout),
                refunds=Refunds(rpc, checkout),
                jobs=Jobs(rpc, checkout, settings),
                links=ResumeLinks(settings),
                tokens=Tokens(settings, client),
                figures=Figures(rpc),
                reports=Reports(rpc),
            )
            if watching:
                stack.push_async_callback(_end, asyncio.create_task(keep_watch(rpc, Operator(settings))))
            yield

    app = FastAPI(
        title="pgcheckout bridge",
        version=__version__,
        description="Proves payments with their providers and tells Postgres. Amounts are in minor units.",
        lifespan=lifespan,
        responses=errors.refusals(429, 500, 503),
        # a page with scripts from elsewhere has no place on the address that payments go through
        openapi_url="/openapi.json" if settings.environment == "development" else None,
        redoc_url=None,
    )
    errors.install(app)
    providers.add_webhooks(app)
    for module in (providers, buyers, admin, operations, dashboard):
        app.include_router(module.router)
    if sandbox:
        app.mount("/sandbox", sandbox.app)
    # the last one added is the outermost: what the limits refuse, a web app of another origin may still read
    app.add_middleware(Limits, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-request-id"],
            expose_headers=["retry-after", "x-request-id"],
        )
    app.add_middleware(Edge, settings=settings)
    return app


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _sandbox(settings: Settings) -> SandboxServer | None:
    if settings.sandbox_secret is None or settings.sandbox_url:
        return None
    from bridge.sandbox.server import SandboxServer  # noqa: PLC0415 # see TYPE_CHECKING above

    return SandboxServer(settings.sandbox_secret.get_secret_value(), settings.url("/sandbox"))


def app_from_environment() -> FastAPI:
    """For ASGI servers: ``uvicorn --factory bridge.api.app:app_from_environment``."""
    settings = load_settings()
    configure(settings)
    app = create_app(settings)
    # what lives as long as the process need not be looked through again while payments wait: that takes 50 ms and more
    gc.collect()
    gc.freeze()
    return app
