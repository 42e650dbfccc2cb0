"""Sessions for people at a terminal: a list, and the story of one. Addresses of buyers are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.money import display_amount
from bridge.report.text import plain, without_addresses
from bridge.rpc import Moment

__all__ = ["show_sessions", "show_story"]

_STYLES = {"completed": "green", "failed": "red", "pending": "cyan", "processing": "cyan"}
# what is said of a moment besides its title and amount
_FIELDS = {
    "attempt": ("status", "reference", "provider_session_id", "error_code", "error_message"),
    "state": ("source", "reason", "detail"),
    "webhook": ("status", "event_id", "error", "deliveries"),
    "capture": ("provider_payment_id",),
    "refund": ("provider_refund_id", "reason"),
    "notification": ("email", "occurrence", "tries", "error"),
    "alert": ("detail", "closed_at"),
}
_UNREMARKABLE = (None, "", 0, 1)  # one delivery, one try
_FACTS = (
    "status", "fulfilment_status", "review_reason", "email", "user_id", "product_id", "subject", "provider",
    "coupon_id", "error_code", "expires_at", "completed_at",
)  # fmt: skip


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
            f"{_time(session['created_at']):%m-%d %H:%M}", _about(session),
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
    for name in _FACTS:
        if name in session:
            table.add_row(name.replace("_", " "), Text(without_addresses(_shown(session[name]))))
    table.add_row("amount", ", ".join(_amounts(session)))
    return table


def _amounts(session: Mapping[str, Any]) -> Iterator[str]:
    currency = session["currency"]
    yield display_amount(session["amount"], currency)
    if session["discount_amount"]:
        yield f"{display_amount(session['discount_amount'], currency)} less than it costs"
    if session["refunded_amount"]:
        yield f"{display_amount(session['refunded_amount'], currency)} given back"


def _when(at: datetime, before: datetime | None) -> tuple[str, str]:
    """The time, with the date where it changes, and how long after the moment before."""
    clock = f"{at:%H:%M:%S}" if before and before.date() == at.date() else f"{at:%Y-%m-%d %H:%M:%S}"
    return clock.rjust(19), _after(at - before) if before else ""


def _after(gap: timedelta) -> str:
    seconds = int(gap.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"+{seconds // size} {unit}"
    return ""


def _what(moment: Moment) -> Text:
    text = Text(without_addresses(moment.title))
    detail = moment.detail
    if "currency" in detail:
        text.append(f"  {display_amount(detail['amount'], detail['currency'])}", "bold")
    elif moment.kind == "credits":
        text.append(f"  {detail['amount']:+}", "bold")
    said = [
        f"{name.replace('_', ' ')} {without_addresses(_shown(detail[name]))}"
        for name in _FIELDS.get(moment.kind, ())
        if detail.get(name) not in _UNREMARKABLE and str(detail[name]) not in moment.title.split()
    ]
    if said:
        text.append("\n" + ", ".join(said), "dim")
    return text


def _shown(value: object) -> str:
    """A value for people; times without fractions."""
    text = str(value)
    if len(text) >= 19 and text[4:5] == "-" and text[10:11] == "T":
        return f"{_time(text):%Y-%m-%d %H:%M:%S}"
    return text


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
