"""Commands that only read: report, sessions, session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, get_args
from uuid import UUID

import typer

from bridge.cli.common import DURATION, duration, open_rpc, provider_names, read_settings
from bridge.console import console_for
from bridge.errors import SetupError
from bridge.report.figures import Figures
from bridge.report.page import report_page
from bridge.report.sessions import show_sessions, show_story
from bridge.report.tables import write_report, write_sessions
from bridge.report.terminal import show_report
from bridge.rpc import Moment, Rpc, SessionFilter
from bridge.settings import Settings
from bridge.values import SessionStatus

__all__ = ["report", "session", "sessions"]

_BATCH = 500

AsJson = Annotated[bool, typer.Option("--json", help="As JSON; amounts in minor units.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="As CSV; amounts in minor units.")]


def report(
    days: Annotated[int, typer.Option(min=1, max=3660, help="How many days to look back.")] = 7,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", dir_okay=False, help="Write one page of HTML to this file.")
    ] = None,
) -> None:
    """Show conversion, revenue and time to pay of the sessions made in the last days, as tables and small charts.

    Amounts are in major units (5.00 USD), those of --json and --csv in minor units (500).

    --csv writes one figure per line: section, name, measure, currency, value.
    """
    _one_of(as_json, as_csv, html)
    answer = asyncio.run(_report(read_settings(), days))
    if as_json:
        _print_json(answer)
    elif as_csv:
        write_report(sys.stdout, answer)
    elif html:
        _write(html, report_page(Figures(answer)))
        typer.echo(f"Written to {html}.")
    else:
        show_report(console_for(), Figures(answer))


def sessions(  # noqa: PLR0917 # typer calls it by name
    status: Annotated[
        SessionStatus | None,
        typer.Option(metavar="STATUS", help=f"Of this status only: {', '.join(get_args(SessionStatus))}."),
    ] = None,
    review: Annotated[bool, typer.Option("--review", help="Only those that a person must look at.")] = False,
    user: Annotated[UUID | None, typer.Option(help="Of this user only.")] = None,
    provider: Annotated[str | None, typer.Option(help="Of this provider only.", autocompletion=provider_names)] = None,
    since: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar=DURATION, help="Made since then (90m, 36h, 2d).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List sessions, newest first. Addresses of buyers are masked, but in --json and --csv."""
    _one_of(as_json, as_csv)
    only: SessionFilter = {"status": status, "user_id": user, "provider": provider}
    if review:
        only["in_review"] = True
    if since:
        only["since"] = datetime.now(UTC) - since
    found, more = asyncio.run(_sessions(read_settings(), only, limit))
    if as_json:
        _print_json(found)
    elif as_csv:
        write_sessions(sys.stdout, found)
    else:
        show_sessions(console_for(), found, more=more)


def session(
    name: Annotated[str, typer.Argument(metavar="ID_OR_REFERENCE", help="The session's id, or a page's reference.")],
    as_json: AsJson = False,
) -> None:
    """Tell all that happened to a session, in order of time: pages, webhooks, money, changes, letters, incidents."""
    session_id, story = asyncio.run(_story(read_settings(), name))
    if as_json:
        moments = [{**moment._asdict(), "at": moment.at.isoformat()} for moment in story]
        _print_json({"session_id": str(session_id), "story": moments})
    else:
        show_story(console_for(), str(session_id), story)


async def _report(settings: Settings, days: int) -> Mapping[str, Any]:
    async with open_rpc(settings) as rpc:
        return await rpc.payment_report(days)


async def _sessions(settings: Settings, only: SessionFilter, limit: int) -> tuple[list[Mapping[str, Any]], bool]:
    """The sessions, and whether there are more; in batches, so that no call runs into a time limit."""
    found: list[Mapping[str, Any]] = []
    async with open_rpc(settings) as rpc:
        while len(found) <= limit:
            before = UUID(found[-1]["session_id"]) if found else None
            wanted = min(_BATCH, limit + 1 - len(found))
            batch = await rpc.list_checkout_sessions(before, wanted, **only)
            found += batch
            if len(batch) < wanted:
                break
    return found[:limit], len(found) > limit


async def _story(settings: Settings, name: str) -> tuple[UUID, list[Moment]]:
    async with open_rpc(settings) as rpc:
        session_id = await _session_id(rpc, name)
        return session_id, await rpc.checkout_session_story(session_id)


async def _session_id(rpc: Rpc, name: str) -> UUID:
    # a reference is 32 hex digits, too: only hyphens make an id
    if "-" in name:
        try:
            return UUID(name)
        except ValueError:
            pass
    return (await rpc.find_checkout_attempt(reference=name)).session_id


def _one_of(*chosen: object) -> None:
    if sum(map(bool, chosen)) > 1:
        raise typer.BadParameter("Choose one form of output.")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _write(file: Path, text: str) -> None:
    """All of it or nothing, but into a pipe or a device. Raises SetupError."""
    beside = file.with_name(f".{file.name}.part")
    try:
        if file.exists() and not file.is_file():
            file.write_text(text, "utf-8")
            return
        beside.write_text(text, "utf-8")
        beside.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise SetupError(f"{file} cannot be written: {error.strerror}.", "Name a file in a folder of yours.") from None
