"""What people and machines read: progress while it goes on, then the verdict."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bridge import __version__
from bridge.simulate.faults import FAULTS, could_not
from bridge.simulate.records import Counts
from bridge.simulate.run import Options, Report, Watcher
from bridge.simulate.verdict import BAD, Row, Verdict

__all__ = ["command_of", "json_of", "show_report", "watching"]

_EVERY_SECONDS = 10.0
_LEGEND = (
    "once, twice, never: how often those who paid were given what they bought. in review: flagged for a person, so\n"
    "found, not lost; wrong money is given nothing. p50, p99, max: from the buyer's payment to its fulfilment."
)
_WRONGS = {
    "twice": "fulfilled twice",
    "lost": "paid, never fulfilled, and not in review",
    "unpaid_fulfilled": "fulfilled, but not paid",
    "refund_lost": "money given back that the database does not know of",
    "refund_doubled": "more given back, or recorded, than was ordered",
    "forged_believed": "a forged message was believed",
}


def command_of(options: Options) -> str:
    """The command that plays the same again."""
    everything = options.faults == FAULTS.keys()
    faults = "all" if everything else ",".join(name for name in FAULTS if name in options.faults) or "none"
    words = [
        "pgcheckout", "simulate", "--purchases", str(options.purchases), "--seed", str(options.seed),
        "--faults", faults, "--rate", f"{options.rate:g}", "--providers", ",".join(options.providers),
        "--concurrency", str(options.concurrency), "--schedule", options.schedule,
    ]  # fmt: skip
    return shlex.join(words)


@contextlib.contextmanager
def watching(console: Console, options: Options) -> Iterator[Watcher]:
    """Shows progress: a live picture in a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _Lines(console, options)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield _Picture(live, options)


class _Lines:
    def __init__(self, console: Console, options: Options) -> None:
        self._console = console
        self._options = options
        self._said_at = time.monotonic()

    def phase(self, name: str) -> None:
        self._console.print(f"{name} ...")

    def tick(self, counts: Counts) -> None:
        if time.monotonic() - self._said_at < _EVERY_SECONDS:
            return
        self._said_at = time.monotonic()
        self._console.print(
            f"  {counts.played} of {self._options.purchases} played, {counts.settled} settled,"
            f" {counts.unsettled} waiting, {counts.requests} requests"
        )


class _Picture:
    def __init__(self, live: Live, options: Options) -> None:
        self._live = live
        self._options = options
        self._phase = ""
        self._began = time.monotonic()
        self._before: tuple[float, int] = (self._began, 0)
        self._speed = 0.0

    def phase(self, name: str) -> None:
        self._phase = name
        self.tick(Counts())

    def tick(self, counts: Counts) -> None:
        at, requests = self._before
        if (passed := time.monotonic() - at) > 1:
            self._speed, self._before = (counts.requests - requests) / passed, (time.monotonic(), counts.requests)
        if counts.begun or self._phase.startswith("starting"):
            self._live.update(self._picture(counts))

    def _picture(self, counts: Counts) -> Panel:
        total = self._options.purchases
        figures = Text("   ").join(
            [
                _figure("played", f"{counts.played} / {total}"),
                _figure("settled", str(counts.settled), "green"),
                _figure("waiting", str(counts.unsettled), "yellow"),
                _figure("requests", f"{counts.requests} ({max(self._speed, 0):.0f}/s)"),
                _figure("time", f"{time.monotonic() - self._began:.0f} s"),
            ]
        )
        faults = Text("  ").join(
            Text.assemble((name, "magenta"), " ", str(counts.injected[name]))
            for name in FAULTS
            if counts.injected[name]
        )
        strikes = [Text(f"{what}  x {number}", style="red") for what, number in counts.strikes.items()]
        return Panel(
            Group(Padding(ProgressBar(total=total, completed=counts.played), (0, 0, 1, 0)), figures, faults, *strikes),
            title=f"[b]pgcheckout simulate[/b]  seed {self._options.seed}",
            subtitle=self._phase,
            border_style="cyan",
        )


def _figure(name: str, value: str, style: str = "bold") -> Text:
    return Text.assemble((f"{name} ", "dim"), (value, style))


# the verdict


def show_report(console: Console, report: Report) -> None:
    """The verdict as tables; the story of what went wrong first."""
    verdict, options = report.verdict, report.options
    for suspect in report.suspects:
        console.print(_story(console, suspect))
    console.print(_rows(console, "Providers", "provider", [*verdict.by_provider, verdict.total]))
    console.print(_rows(console, "Faults (a purchase can meet several)", "fault", verdict.by_fault))
    console.print(_remarks(console, report))
    console.print(_LEGEND, style="dim")
    if lines := could_not(options.providers, options.faults):
        console.print(Text("Not injected:", style="bold"), *(Text(f"  {line}") for line in lines), sep="\n")
    console.print(_conclusion(console, report))
    console.print(Text("Again:  ", style="bold") + Text(command_of(options), style="cyan"), soft_wrap=True)
    console.print("The plan is the same each time; what overtakes what is decided by the machine.", style="dim")


def _rows(console: Console, title: str, first: str, rows: Sequence[Row]) -> Table:
    table = _table(console, title)
    table.add_column(first, style="bold", no_wrap=True)
    names = (
        "purchases", "paid", "once", "twice", "never", "in review", "unpaid", "for free", "p50", "p99", "max"
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        waits = [_seconds(wait) for wait in row.repair] if row.repair else ["-"] * 3
        table.add_row(
            row.name, str(row.purchases), str(row.paid), _good(row.once), _bad(row.twice), _bad(row.lost),
            _noted(row.review), str(row.unpaid), _bad(row.unpaid_fulfilled), *waits,
            style="bold" if row.name == "all" else "",
        )  # fmt: skip
    return table


def _remarks(console: Console, report: Report) -> Table:
    verdict, counts = report.verdict, report.verdict.counts
    table = _table(console, "", header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    answers = ", ".join(
        f"{number} x {status or 'nobody'}" for status, number in sorted(counts.answers.items(), reverse=True)
    )
    lines = {
        "in review": _list(verdict.reviews) or "nothing",
        "refunds": _list(verdict.refunds),
        "forged messages": _list(verdict.forged),
        "strikes": _list(counts.strikes) or "none",
        "requests": f"{counts.requests} in {report.playing:.0f} s ({counts.requests / report.playing:.0f}/s,"
        f" {counts.played / report.playing:.1f} purchases/s): {answers}",
        "settled": f"{report.settling:.0f} s after the last purchase",
        "never opened": f"{verdict.gave_up} buyers found no page in two minutes" if verdict.gave_up else "",
        "ended by itself": _list(verdict.fell_over),
        "surprises": "\n".join(counts.surprises[:10]),
        "invariants": "\n".join(f"{b['invariant']} {b['subject']}: {b['detail']}" for b in verdict.broken[:20])
        or "all hold",
    }
    for name, said in lines.items():
        if said:
            table.add_row(name, said)
    return table


def _conclusion(console: Console, report: Report) -> RenderableType:
    verdict = report.verdict
    if verdict.is_good:
        total = verdict.total
        return _framed(
            console,
            f"NOTHING LOST, NOTHING DOUBLED: {total.paid} paid, {total.once} fulfilled once, {total.review} in review.",
            "bold green",
        )
    wrongs = [f"{number} {_WRONGS[kind]}" for kind, number in verdict.bad.items()]
    if verdict.broken:
        wrongs.append(f"{len(verdict.broken)} broken invariants")
    return _framed(console, "FAILED: " + "; ".join(wrongs) + ".", "bold red")


def _story(console: Console, suspect: Any) -> RenderableType:
    table = _table(
        console,
        f"Purchase {suspect.number} ({suspect.provider}, {suspect.product}): "
        f"{'; '.join(_WRONGS[wrong] for wrong in suspect.wrongs)}. Faults: {', '.join(suspect.faults) or 'none'}",
        header=False,
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for at, what in suspect.story:
        table.add_row(f"{at:%H:%M:%S.%f}"[:-3], Text(what))
    return table


def _table(console: Console, title: str, *, header: bool = True) -> Table:
    return Table(
        title=Text(title) if title else None, title_justify="left", title_style="bold", show_header=header,
        box=box.ROUNDED if console.is_terminal else box.ASCII, header_style="bold cyan",
    )  # fmt: skip


def _framed(console: Console, text: str, style: str) -> RenderableType:
    return Panel(Text(text), style=style, box=box.HEAVY if console.is_terminal else box.ASCII, expand=False)


def _good(number: int) -> Text:
    return Text(str(number), style="green")


def _bad(number: int) -> Text:
    return Text(str(number), style="bold red" if number else "dim")


def _noted(number: int) -> Text:
    return Text(str(number), style="yellow" if number else "dim")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _list(numbers: Any) -> str:
    return ", ".join(f"{number} {str(name).replace('_', ' ')}" for name, number in numbers.items())


# for machines


def json_of(report: Report) -> str:
    """The verdict as one JSON object. ``format`` changes when a field changes its meaning or goes away."""
    verdict, options = report.verdict, report.options
    answer = {
        "format": 1,
        "version": __version__,
        "good": verdict.is_good,
        "seed": options.seed,
        "command": command_of(options),
        "faults": [name for name in FAULTS if name in options.faults],
        "not_injected": could_not(options.providers, options.faults),
        "seconds": {"playing": round(report.playing, 3), "settling": round(report.settling, 3)},
        "total": _row_json(verdict.total),
        "providers": [_row_json(row) for row in verdict.by_provider],
        "by_fault": [_row_json(row) for row in verdict.by_fault],
        "bad": {kind: verdict.bad.get(kind, 0) for kind in BAD},
        "reviews": dict(verdict.reviews),
        "refunds": dict(verdict.refunds),
        "forged": dict(verdict.forged),
        "broken_invariants": [dict(broken) for broken in verdict.broken],
        **_counts_json(verdict),
        "suspects": [
            {
                "number": suspect.number,
                "provider": suspect.provider,
                "product": suspect.product,
                "faults": list(suspect.faults),
                "wrongs": list(suspect.wrongs),
                "story": [{"at": at.isoformat(), "what": what} for at, what in suspect.story],
            }
            for suspect in report.suspects
        ],
    }
    return json.dumps(answer, indent=2)


def _counts_json(verdict: Verdict) -> dict[str, Any]:
    counts = verdict.counts
    return {
        "never_opened": verdict.gave_up,
        "injected": {name: counts.injected[name] for name in FAULTS if counts.injected[name]},
        "strikes": dict(counts.strikes),
        "requests": counts.requests,
        "answers": {str(status): number for status, number in sorted(counts.answers.items())},
        "ended_by_themselves": dict(verdict.fell_over),
        "surprises": list(counts.surprises),
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "purchases": row.purchases,
        "paid": row.paid,
        "fulfilled_once": row.once,
        "fulfilled_twice": row.twice,
        "never": row.lost,
        "in_review": row.review,
        "unpaid": row.unpaid,
        "unpaid_fulfilled": row.unpaid_fulfilled,
        "repair_seconds": dict(zip(("p50", "p99", "max"), (round(s, 3) for s in row.repair), strict=True))
        if row.repair
        else None,
    }
