"""Tables for machines: comma-separated, one header line, amounts in minor units, times in ISO 8601."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from bridge.report.text import cell

__all__ = ["SESSION_COLUMNS", "write_report", "write_sessions"]

SESSION_COLUMNS = (
    "session_id", "created_at", "status", "fulfilment_status", "review_reason", "user_id", "email", "product_id",
    "subject", "provider", "currency", "amount", "refunded_amount", "attempts", "expires_at", "completed_at",
)  # fmt: skip
_SECTIONS = {"by_day": "day", "by_product": "product", "by_provider": "provider"}


def write_report(to: TextIO, report: Mapping[str, Any]) -> None:
    """One figure per line: ``section,name,measure,currency,value``. Currency is empty where the figure is no amount."""
    _write(to, ("section", "name", "measure", "currency", "value"), _figures(report))


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    yield from _measures("totals", "", report["totals"])
    for section, name in _SECTIONS.items():
        for line in report[section]:
            yield from _measures(section, line[name], {key: line[key] for key in line if key != name})


def _measures(section: str, name: str, line: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for measure, value in line.items():
        if isinstance(value, Mapping):
            yield from ((section, name, measure, currency, amount) for currency, amount in sorted(value.items()))
        elif value is not None:
            yield section, name, measure, "", value


def write_sessions(to: TextIO, sessions: Iterable[Mapping[str, Any]]) -> None:
    """One session per line, with the columns of ``SESSION_COLUMNS``."""
    _write(to, SESSION_COLUMNS, ([session[column] for column in SESSION_COLUMNS] for session in sessions))


def _write(to: TextIO, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    writer = csv.writer(to, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([cell(value) for value in row] for row in rows)
