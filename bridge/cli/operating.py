"""Commands that ask or tell a provider something: verify, reconcile, refund, replay."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer

from bridge.cli.common import DURATION, duration, open_checkout, provider_names, read_settings
from bridge.errors import PgcheckoutError
from bridge.jobs import ask_about, unsettled_pages
from bridge.news import News
from bridge.progress import Tally, bar, show
from bridge.refunds import Refunds
from bridge.settings import Settings

__all__ = ["reconcile", "refund", "replay", "verify"]


def verify(session_id: Annotated[UUID, typer.Argument(help="Id of a checkout session.")]) -> None:
    """Ask the provider about a session, apply its answer and print what is known."""
    asyncio.run(_verify(read_settings(), session_id))


def reconcile(
    since: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar=DURATION, help="Sessions made since then (90m, 36h, 2d), due or not."),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Of this provider only.", autocompletion=provider_names)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pages.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON.")] = False,
) -> None:
    """Ask the providers about unsettled pages now and show what became of them; without --since, those that are due.

    Safe beside workers: what one of them completes meanwhile counts as repaired. Exit 1 when a provider failed.
    """
    asyncio.run(_reconcile(read_settings(), since, provider, limit, as_json=as_json))


def refund(
    session_id: Annotated[UUID, typer.Argument(help="Id of a checkout session.")],
    amount: Annotated[int | None, typer.Option(help="Minor units; by default all that is left.")] = None,
    reason: Annotated[str | None, typer.Option(help="Kept with the refund.")] = None,
    key: Annotated[str | None, typer.Option(help="The same key never gives money back twice.")] = None,
) -> None:
    """Give money back through the provider, record it and print what became of it."""
    asyncio.run(_refund(read_settings(), session_id, amount, reason, key))


def replay(
    provider: Annotated[
        str | None, typer.Argument(help="Of this provider only.", autocompletion=provider_names)
    ] = None,
    event: Annotated[str | None, typer.Argument(help="This event only.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one of them, oldest first.")] = False,
) -> None:
    """List the webhooks that could not be applied, or handle one, or --all of them, again."""
    asyncio.run(_replay(read_settings(), provider, event, everything=everything))


async def _verify(settings: Settings, session_id: UUID) -> None:
    async with open_checkout(settings) as (_, checkout):
        known = await checkout.verify(None, "admin", session_id=session_id)
    answer = {
        "session_id": str(session_id),
        "payment_status": known.status,
        "verified": known.verified,
        "fulfilment_status": known.fulfilment_status,
        "fulfilment": known.fulfilment,
    }
    typer.echo(json.dumps(answer, indent=2))


async def _reconcile(
    settings: Settings, since: timedelta | None, provider: str | None, limit: int | None, *, as_json: bool
) -> None:
    tally = Tally()
    async with open_checkout(settings) as (rpc, checkout):
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


async def _refund(
    settings: Settings, session_id: UUID, amount: int | None, reason: str | None, key: str | None
) -> None:
    async with open_checkout(settings) as (rpc, checkout):
        done = await Refunds(rpc, checkout).give(session_id, amount=amount, reason=reason, key=key)
    typer.echo(json.dumps({**asdict(done), "session_id": str(session_id)}, indent=2))


async def _replay(settings: Settings, provider: str | None, event: str | None, *, everything: bool) -> None:
    async with open_checkout(settings) as (rpc, checkout):
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
