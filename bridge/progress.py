"""What somebody sees who asks the providers by hand: a bar while it lasts, and the sum of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bridge.jobs import Asked

__all__ = ["Tally", "bar", "read_duration", "show"]

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_PAID = ("completed", "partially_refunded", "refunded")


def read_duration(text: str) -> timedelta:
    """``90m``, ``36h`` or ``2d``. Raises ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if not found:
        raise ValueError(f"{text!r} is not a duration. Write 90m, 36h or 2d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


class Tally:
    """What became of the pages, one after the other."""

    def __init__(self) -> None:
        self._results: Counter[str] = Counter()
        self._problems: Counter[str] = Counter()
        self._in_review = 0

    def add(self, asked: Asked) -> None:
        """Count one."""
        self._in_review += asked.in_review
        if asked.problem:
            self._problems[asked.problem] += 1
        else:
            self._results[_result_of(asked)] += 1

    @property
    def failed(self) -> int:
        """Pages whose provider could not be asked, though it can be."""
        return self._problems.total()

    def to_json(self) -> dict[str, Any]:
        """``asked`` is the sum of repaired, pending, processing and unpaid; ``failed`` counts by reason."""
        results = {name: self._results[name] for name in ("repaired", "pending", "processing", "unpaid")}
        return {
            "asked": sum(results.values()), **results, "tells_by_itself": self._results["tells_by_itself"],
            "failed": dict(sorted(self._problems.items())), "in_review": self._in_review,
        }  # fmt: skip

    def rows(self) -> list[tuple[str, int]]:
        """The same for people."""
        known = self.to_json()
        return [
            ("asked", known["asked"]),
            ("  repaired: now completed", known["repaired"]),
            ("  still pending", known["pending"]),
            ("  processing", known["processing"]),
            ("  ended unpaid", known["unpaid"]),
            ("cannot be asked, tells by itself", known["tells_by_itself"]),
            ("failed to ask", self.failed),
            *((f"  {reason}", count) for reason, count in known["failed"].items()),
            ("in review", known["in_review"]),
        ]


def _result_of(asked: Asked) -> str:
    if asked.status in _PAID:
        return "repaired"
    if not asked.told:
        return "tells_by_itself"
    return asked.status if asked.status in ("pending", "processing") else "unpaid"


@contextlib.contextmanager
def bar(total: int) -> Iterator[Callable[[Tally], None]]:
    """A bar on a terminal's standard error, and nothing elsewhere; call it after each page."""
    console = Console(stderr=True)
    columns = (
        TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[counts]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, counts="")

        def move_on(tally: Tally) -> None:
            repaired = tally.to_json()["repaired"]
            progress.update(task, advance=1, counts=f"repaired {repaired}, failed {tally.failed}")

        yield move_on


def show(tally: Tally, *, as_json: bool) -> None:
    """Print it: JSON, a table for a terminal, or lines that stay the same for everything else."""
    console = Console()
    if as_json:
        console.file.write(json.dumps(tally.to_json(), indent=2) + "\n")
    elif console.is_terminal:
        table = Table("what became of the pages", "count", min_width=44)
        table.columns[1].justify = "right"
        for label, count in tally.rows():
            table.add_row(label, str(count))
        console.print(table)
    else:
        for label, count in tally.rows():
            console.file.write(f"{label:<34}{count:>6}\n")
