"""What ``payment_report`` answers, made ready to be drawn: no day is left out, and amounts are for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from bridge.money import display_amount

__all__ = ["Figures", "Series", "age", "minutes", "money", "percent"]

NONE = "-"


@dataclass(frozen=True, slots=True)
class Series:
    """One measure per day of ``Figures.days``, ``None`` where there is nothing to measure; ``shown``: for people."""

    name: str
    values: tuple[float | None, ...]
    shown: tuple[str, ...]

    @property
    def largest(self) -> str:
        """The largest value for people."""
        return max(zip(self.values, self.shown, strict=True), key=lambda pair: pair[0] or 0)[1]


class Figures:
    """A report. ``totals`` and the lines of the groups are as in the SQL function."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.since = datetime.fromisoformat(report["from"]).astimezone(UTC)
        self.until = datetime.fromisoformat(report["to"]).astimezone(UTC)
        self.totals: Mapping[str, Any] = report["totals"]
        self.products: list[Mapping[str, Any]] = report["by_product"]
        self.providers: list[Mapping[str, Any]] = report["by_provider"]
        self.reminders: Mapping[str, Any] = report["reminders"]
        self.coupons: Mapping[str, Mapping[str, Any]] = report["coupons"]
        self._by_day = {date.fromisoformat(line["day"]): line for line in report["by_day"]}

    @property
    def days(self) -> list[date]:
        """Every day (UTC) of the report; of the first and of the last one, it holds a part only."""
        first, last = self.since.date(), self.until.date()
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]

    @property
    def currencies(self) -> list[str]:
        """All that was paid in."""
        return sorted(self.totals["revenue"])

    def line(self, day: date) -> Mapping[str, Any] | None:
        """The line of a day on which sessions were made."""
        return self._by_day.get(day)

    def revenue(self, currency: str) -> Series:
        """Sold per day, refunds not subtracted."""
        amounts = [((self.line(day) or {}).get("revenue") or {}).get(currency, 0) for day in self.days]
        shown = tuple(display_amount(amount, currency) for amount in amounts)
        return Series(f"Revenue in {currency}", tuple(amounts), shown)

    @property
    def conversion(self) -> Series:
        """Share of the sessions made on a day that were paid."""
        rates = tuple(line["conversion_rate"] if (line := self.line(day)) else None for day in self.days)
        return Series("Conversion", rates, tuple(percent(rate) for rate in rates))


def percent(rate: float | None) -> str:
    """A rate for people; a dash for none."""
    return NONE if rate is None else f"{rate * 100:.1f} %"


def minutes(value: float | None) -> str:
    """A number of minutes for people."""
    if value is None:
        return NONE
    return f"{value * 60:.0f} s" if value < 1 else f"{value:.1f} min" if value < 120 else f"{value / 60:.1f} h"


def money(amounts: Mapping[str, int]) -> str:
    """Amounts per currency for people."""
    return ", ".join(display_amount(amount, currency) for currency, amount in sorted(amounts.items())) or NONE


def age(seconds: float | None) -> str:
    """A length of time for people, rounded down; a dash for none."""
    if seconds is None:
        return NONE
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 1:.0f} s"
