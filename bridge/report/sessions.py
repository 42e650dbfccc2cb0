"""Sessions for people at a terminal: a list, and the story of one. Addresses of buyers are masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.money import display_amount
from bridge.report.story import after, amount_of, details_of, facts_of, time_of
from bridge.report.text import plain, without_addresses
from bridge.rpc import Moment

__all__ = ["show_sessions", "show_story"]

_STYLES = {"completed": "green", "failed": "red", "pending": "cyan", "processing": "cyan"}


def show_sessions(console: Console, sessions: Sequence[Mapping[str, Any]], *, more: bool) -> None:
    """A line each; ``more``: not all of them were asked for."""
    if not sessions:
        console.print("No such sessions.")
        return
    # an id can be copied from the narrowest terminal: most of the rest stands below it
    table = Table(box=None, pad_edge=False)
    table.add_column("made (UTC)", no_wrap=True)
    table.add_column("session", min_width=36, overflow="fold")
    table.add_column("status, amount", no_wrap=True)
    for session in sessions:
        status = session["status"]
        table.add_row(
            f"{time_of(session['created_at']):%m-%d %H:%M}", _about(session),
            Text.assemble(
                (status, _STYLES.get(status, "")), "\n", display_amount(session["amount"], session["currency"])
            ),
        )  # fmt: skip
    console.print(table)
    if more:
        console.print(f"{len(sessions)} shown; there are more, which --limit and --since choose.")


def _about(session: Mapping[str, Any]) -> Text:
    buyer = without_addresses(session["email"] or f"user {session['user_id'][:8]}...")
    text = Text(session["session_id"])
    text.append(f"\n{plain(session['product_id'])}, {plain(session['provider'])}, {buyer}", "dim")
    for reason in filter(None, plain(session["review_reason"] or "").split(",")):
        text.append(f"\nreview: {reason}", "bold yellow")
    return text


def show_story(console: Console, session_id: str, story: Sequence[Moment]) -> None:
    """The session as it is, then all that happened, in order of time."""
    console.print(Text(f"Session {session_id}", "bold"))
    known = next((moment.detail for moment in story if moment.kind == "session"), None)
    console.print(_facts(known) if known else "The session itself was deleted; this is what outlived it.")
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    for style in ("dim", "dim", "", ""):
        table.add_column(style=style, overflow="fold", no_wrap=style == "dim")
    before: datetime | None = None
    for moment in story:
        table.add_row(*_when(moment.at, before), moment.kind, _what(moment))
        before = moment.at
    console.print(table)


def _facts(session: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts_of(session):
        table.add_row(name, Text(value))
    return table


def _when(at: datetime, before: datetime | None) -> tuple[str, str]:
    """The time, with the date where it changes, and how long after the moment before."""
    clock = f"{at:%H:%M:%S}" if before and before.date() == at.date() else f"{at:%Y-%m-%d %H:%M:%S}"
    return clock.rjust(19), after(at - before) if before else ""


def _what(moment: Moment) -> Text:
    text = Text(without_addresses(moment.title))
    if amount := amount_of(moment):
        text.append(f"  {amount}", "bold")
    if said := details_of(moment):
        text.append("\n" + ", ".join(said), "dim")
    return text
