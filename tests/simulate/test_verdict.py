"""What counts as lost or doubled, on books that are written by hand."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.simulate.faults import FAULTS
from bridge.simulate.ledger import Fate
from bridge.simulate.plan import draw
from bridge.simulate.records import Counts, Record
from bridge.simulate.verdict import BAD, judge, outcome_of, percentile, wrongs_of

PRICE = 500


def fate(way: str = "pay", ordered_back: int = 0, believed: int = 0, **books: Any) -> Fate:
    """A paid and fulfilled purchase, but for these."""
    purchase = next(one for one in draw(1, 500, FAULTS, 0.5, ["stripe"]).purchases if one.way == way)
    record = Record(purchase=purchase, user_id=uuid.uuid4(), token="", price=PRICE, paid_at=1_000_000.0)
    record.ordered_back, record.believed, record.pages = ordered_back, believed, ["page"]
    written: dict[str, Any] = {
        "taken": PRICE, "given_back": 0, "statuses": ["completed"], "reviews": [], "grants": 1.0, "refunded": 0,
        "pending": 0, "completed_at": datetime.fromtimestamp(1_000_003, UTC),
    }  # fmt: skip
    return Fate(record=record, **(written | books))


@pytest.mark.parametrize(
    ("outcome", "wrongs", "purchase"),
    [
        ("once", [], fate()),
        ("twice", ["twice"], fate(grants=2.0)),
        ("twice", ["twice"], fate(grants=1.5)),
        ("twice", ["twice"], fate(grants=2.0, reviews=["paid_twice"])),
        ("review", [], fate(grants=2.0, taken=2 * PRICE, reviews=["paid_twice"])),
        ("twice", ["twice"], fate(grants=2.0, taken=2 * PRICE)),
        ("lost", ["lost"], fate(grants=0.0)),
        ("lost", ["lost"], fate(taken=2 * PRICE)),
        ("once", [], fate(taken=2 * PRICE, reviews=["duplicate_payment"])),
        ("review", [], fate(grants=0.0, reviews=["fulfilment_failed"])),
        ("returned", [], fate(grants=0.0, given_back=PRICE, refunded=PRICE, ordered_back=PRICE)),
        ("unpaid", [], fate(grants=0.0, taken=0)),
        ("review", [], fate(grants=0.0, taken=0, reviews=["reconcile_gave_up"])),
        ("unpaid_fulfilled", ["unpaid_fulfilled"], fate(taken=0)),
        ("unpaid_fulfilled", ["unpaid_fulfilled"], fate(taken=0, reviews=["amount_mismatch"])),
        ("review", [], fate("amount", grants=0.0, taken=PRICE // 2, reviews=["amount_mismatch"])),
        ("lost", ["lost"], fate("amount", grants=0.0, taken=PRICE // 2)),
        ("unpaid_fulfilled", ["unpaid_fulfilled"], fate("amount", taken=PRICE // 2, reviews=["amount_mismatch"])),
        ("review", [], fate("currency", grants=0.0, reviews=["currency_mismatch"])),
        ("unpaid_fulfilled", ["unpaid_fulfilled"], fate("currency")),
        ("once", [], fate(given_back=200, refunded=200, ordered_back=200)),
        ("once", [], fate(given_back=200, pending=200, ordered_back=200)),
        ("once", [], fate(pending=200, ordered_back=200)),
        ("once", ["refund_lost"], fate(given_back=200, ordered_back=200)),
        ("once", ["refund_doubled"], fate(given_back=400, refunded=400, ordered_back=200)),
        ("once", ["refund_doubled"], fate(refunded=400, given_back=200, ordered_back=200)),
        ("once", ["forged_believed"], fate(believed=1)),
    ],
)
def test_each_fate_has_its_name(outcome: str, wrongs: list[str], purchase: Fate) -> None:
    assert outcome_of(purchase) == outcome
    assert list(wrongs_of(purchase)) == wrongs


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_purchase_among_good_ones_is_a_bad_verdict(kind: str) -> None:
    bad = {
        "twice": fate(grants=2.0),
        "lost": fate(grants=0.0),
        "unpaid_fulfilled": fate(taken=0),
        "refund_lost": fate(given_back=1, ordered_back=1),
        "refund_doubled": fate(given_back=2, refunded=2, ordered_back=1),
        "forged_believed": fate(believed=1),
    }[kind]
    verdict = judge([fate(), bad, fate()], [], Counts(), {})
    assert not verdict.is_good
    assert verdict.bad == {kind: 1}
    assert list(verdict.suspects) == [bad]
    assert judge([fate(), fate()], [], Counts(), {}).is_good


def test_a_broken_invariant_is_a_bad_verdict() -> None:
    assert not judge([fate()], [{"invariant": "x", "subject": "y", "detail": "z"}], Counts(), {}).is_good


def test_rows_count_what_they_are_about() -> None:
    wrong = fate("amount", grants=0.0, taken=PRICE // 2, reviews=["amount_mismatch, disputed"], completed_at=None)
    verdict = judge([fate(), wrong, fate("abandon", grants=0.0, taken=0, completed_at=None)], [], Counts(), {})
    total = verdict.total
    assert (total.purchases, total.paid, total.once, total.review, total.unpaid) == (3, 1, 1, 1, 1)
    assert total.repair == (3.0, 3.0, 3.0)
    assert verdict.reviews == {"amount_mismatch": 1, "disputed": 1}
    rows = {row.name: row for row in verdict.by_fault}
    assert (rows["amount"].purchases, rows["amount"].review, rows["amount"].repair) == (1, 1, None)
    assert rows["abandon"].unpaid == 1


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values[:1], 50)) == (50.0, 99.0, 1.0)
