"""Judges what became of the purchases: lost, doubled, or as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.simulate.faults import FAULTS
from bridge.simulate.ledger import Fate
from bridge.simulate.records import Counts

__all__ = ["BAD", "Row", "Verdict", "judge", "outcome_of", "percentile", "wrongs_of"]

BAD = ("twice", "lost", "unpaid_fulfilled", "refund_lost", "refund_doubled", "forged_believed")
"""What must never happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Some purchases together. Seconds from payment to fulfilment in ``repair`` (p50, p99, max); None without any."""

    name: str
    purchases: int
    paid: int
    once: int
    twice: int
    lost: int
    review: int
    unpaid: int
    unpaid_fulfilled: int
    repair: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the command prints. ``bad`` counts what must never happen, by kind."""

    total: Row
    by_provider: Sequence[Row]
    by_fault: Sequence[Row]
    reviews: Mapping[str, int]
    gave_up: int
    refunds: Mapping[str, int]
    forged: Mapping[str, int]
    broken: Sequence[Mapping[str, Any]]
    bad: Mapping[str, int]
    suspects: Sequence[Fate]
    counts: Counts
    fell_over: Mapping[str, int]

    @property
    def is_good(self) -> bool:
        return not self.bad and not self.broken


def judge(
    fates: Sequence[Fate], broken: Sequence[Mapping[str, Any]], counts: Counts, fell_over: Mapping[str, int]
) -> Verdict:
    """Compare the providers' books with the database's, purchase by purchase."""
    verdicts = {id(fate): list(wrongs_of(fate)) for fate in fates}
    return Verdict(
        total=_row("all", fates),
        by_provider=[_row(name, group) for name, group in sorted(_by_provider(fates).items())],
        by_fault=[_row(name, group) for name, group in _by_fault(fates).items() if group],
        reviews=dict(Counter(reason for fate in fates for reason in _reasons(fate)).most_common()),
        gave_up=sum(not fate.record.pages for fate in fates),
        refunds=_refunds(fates),
        forged={
            "sent": sum(fate.record.forged for fate in fates),
            "believed": sum(fate.record.believed for fate in fates),
        },
        broken=broken,
        bad={kind: number for kind in BAD if (number := sum(kind in wrongs for wrongs in verdicts.values()))},
        suspects=[fate for fate in fates if verdicts[id(fate)]],
        counts=counts,
        fell_over={name: number for name, number in fell_over.items() if number},
    )


def outcome_of(fate: Fate) -> str:
    """What a purchase came to: ``once``, ``twice``, ``lost``, ``review`` (in review, without the goods), ``unpaid``,
    ``unpaid_fulfilled``, or ``returned`` (the money went back before the goods were given)."""
    if not fate.taken or not fate.is_right_money:
        return _without_the_money(fate)
    if fate.grants > 1:
        # money that came twice may have bought twice, where a person is told of it
        return "review" if fate.reviews and fate.grants * fate.record.price <= fate.taken else "twice"
    if fate.grants == 1:
        return "once" if fate.taken == fate.record.price or fate.reviews else "lost"
    if fate.reviews:
        return "review"
    return "returned" if fate.given_back >= fate.taken else "lost"


def _without_the_money(fate: Fate) -> str:
    if fate.grants:
        return "unpaid_fulfilled"
    if fate.reviews:
        return "review"
    return "lost" if fate.taken else "unpaid"


def wrongs_of(fate: Fate) -> Iterable[str]:
    """What must never happen, and has happened to this purchase."""
    outcome = outcome_of(fate)
    if outcome in BAD:
        yield outcome
    if fate.given_back > fate.refunded + fate.pending:
        yield "refund_lost"
    if max(fate.given_back, fate.refunded) > fate.record.ordered_back:
        yield "refund_doubled"
    if fate.record.believed:
        yield "forged_believed"


def _row(name: str, fates: Sequence[Fate]) -> Row:
    """Count some purchases."""
    outcomes = Counter(map(outcome_of, fates))
    waits = sorted(seconds for fate in fates if (seconds := fate.repaired_after) is not None)
    return Row(
        name=name,
        purchases=len(fates),
        paid=sum(bool(fate.taken) and fate.is_right_money for fate in fates),
        once=outcomes["once"],
        twice=outcomes["twice"],
        lost=outcomes["lost"],
        review=sum(bool(fate.reviews) for fate in fates),
        unpaid=outcomes["unpaid"] + outcomes["returned"],
        unpaid_fulfilled=outcomes["unpaid_fulfilled"],
        repair=(percentile(waits, 50), percentile(waits, 99), waits[-1]) if waits else None,
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _by_provider(fates: Iterable[Fate]) -> dict[str, list[Fate]]:
    groups: dict[str, list[Fate]] = {}
    for fate in fates:
        groups.setdefault(fate.record.purchase.provider, []).append(fate)
    return groups


def _by_fault(fates: Sequence[Fate]) -> dict[str, list[Fate]]:
    groups = {"no fault": [fate for fate in fates if not fate.record.faults]}
    groups |= {name: [fate for fate in fates if name in fate.record.faults] for name in FAULTS}
    # the buyer's return repairs a dropped message at once; where that is missing too, only the worker can
    groups["drop+vanish"] = [fate for fate in fates if {"drop", "vanish"} <= fate.record.faults]
    return groups


def _reasons(fate: Fate) -> list[str]:
    return [reason for review in fate.reviews for reason in review.split(", ")]


def _refunds(fates: Iterable[Fate]) -> dict[str, int]:
    given = [fate for fate in fates if fate.given_back or fate.refunded or fate.pending]
    return {
        "given": sum(bool(fate.given_back) for fate in given),
        "recorded": sum(bool(fate.refunded) for fate in given),
        "pending": sum(bool(fate.pending) for fate in given),
    }
