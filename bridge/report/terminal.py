"""A report for people at a terminal: totals, a line per day with bars (or a curve, when there are many), and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from math import ceil
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bridge.money import display_amount
from bridge.report.charts import bar, spark
from bridge.report.figures import Figures, minutes, money, percent
from bridge.report.text import plain

__all__ = ["show_report"]

_DAYS_IN_LINES = 31  # more of them are drawn as curves
_CURVE = 50


def show_report(console: Console, figures: Figures) -> None:
    """Print it. Amounts in major units, days in UTC."""
    console.print(Group(*_parts(figures)))


def _parts(figures: Figures) -> Iterator[RenderableType]:
    yield Text(f"Sessions made from {figures.since:%Y-%m-%d %H:%M} to {figures.until:%Y-%m-%d %H:%M} UTC", "bold")
    yield _totals(figures)
    if not figures.totals["created"]:
        yield Text("\nNo session was made in this time.")
        return
    yield from _curves(figures) if len(figures.days) > _DAYS_IN_LINES else _days(figures)
    yield _group("Products", "product", figures.products)
    yield _group("Providers", "provider", figures.providers)
    yield from _coupons(figures)


def _totals(figures: Figures) -> Table:
    totals, reminders = figures.totals, figures.reminders
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    ends = [f"{totals[name]} {name}" for name in ("open", "expired", "cancelled", "failed") if totals[name]]
    rows = [
        ("made", str(totals["created"])),
        ("paid", f"{totals['completed']}  ({percent(totals['conversion_rate'])})"),
        ("not paid", ", ".join(ends) or "none"),
        ("revenue", money(totals["revenue"])),
        ("refunded", money(totals["refunds"])),
        ("time to pay", f"median {minutes(totals['median_minutes'])}, mean {minutes(totals['average_minutes'])}"),
    ]
    if reminders["reminded"]:
        with_one, without = percent(reminders["conversion_with_reminder"]), percent(reminders["conversion_without"])
        rows.append(("reminders", f"{reminders['reminded']} sent; {with_one} paid after one, {without} without"))
    for row in rows:
        table.add_row(*row)
    return table


def _table(title: str, *names: str, right: tuple[str, ...] = ("made", "paid")) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in ("day", *right))
    return table


def _days(figures: Figures) -> Iterator[RenderableType]:
    table = _table("Days (UTC; the first and the last are not whole)", "day", "made", "paid", "conversion", "revenue")
    largest = {currency: max(figures.revenue(currency).values, key=lambda v: v or 0) for currency in figures.currencies}
    for day in figures.days:
        line = figures.line(day)
        if line is None:
            table.add_row(f"{day:%a %d %b}", "0", "0")
            continue
        rate = line["conversion_rate"]
        table.add_row(
            f"{day:%a %d %b}", str(line["created"]), str(line["completed"]),
            _with_bar(percent(rate), rate or 0, 1.0),
            Text("\n").join(
                _with_bar(display_amount(amount, currency), amount, largest[currency] or 0)
                for currency, amount in sorted(line["revenue"].items())
            ),
        )  # fmt: skip
    yield table


def _with_bar(shown: str, value: float, largest: float) -> Text:
    return Text.assemble((bar(value, largest).ljust(10), "cyan"), f" {shown}")


def _curves(figures: Figures) -> Iterator[RenderableType]:
    table = _table(
        "Days (UTC), one sign each; the first and the last are not whole", "", "highest", "from", "", right=("highest",)
    )
    days = figures.days
    # lines of one length, so that they can be compared
    length = ceil(len(days) / ceil(len(days) / _CURVE))
    for series in chain([figures.conversion], map(figures.revenue, figures.currencies)):
        values = series.values
        largest = max(value or 0 for value in values)
        starts = range(0, len(days), length)
        table.add_row(
            series.name, series.largest, "\n".join(str(days[n]) for n in starts),
            Text("\n".join(spark(values[n : n + length], largest) for n in starts), "cyan"),
        )  # fmt: skip
    yield table


def _group(title: str, name: str, lines: list[Mapping[str, Any]]) -> Table:
    table = _table(title, name, "made", "paid", "conversion", "revenue", "refunded", "median to pay")
    for line in lines:
        table.add_row(
            Text(plain(line[name])), str(line["created"]), str(line["completed"]), percent(line["conversion_rate"]),
            money(line["revenue"]), money(line["refunds"]), minutes(line["median_minutes"]),
        )  # fmt: skip
    return table


def _coupons(figures: Figures) -> Iterator[RenderableType]:
    if not figures.coupons:
        return
    table = _table("Coupons", "coupon", "redeemed", "reserved", right=("redeemed", "reserved"))
    for name, used in sorted(figures.coupons.items()):
        table.add_row(Text(plain(name)), str(used["redeemed"]), str(used["reserved"]))
    yield table
