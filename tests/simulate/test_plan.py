"""What a seed says, and what the command line chooses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bridge.errors import InvalidRequest
from bridge.simulate.accounts import ACCOUNTS, chosen_providers
from bridge.simulate.faults import CANNOT, FAULTS, NEVER, STRIKES, WAYS, chosen, could_not
from bridge.simulate.plan import draw

ALL = frozenset(FAULTS)


def test_a_seed_says_the_same_every_time() -> None:
    assert draw(7, 300, ALL, 0.2, ACCOUNTS) == draw(7, 300, ALL, 0.2, sorted(ACCOUNTS))
    assert draw(7, 300, ALL, 0.2, ACCOUNTS).purchases != draw(8, 300, ALL, 0.2, ACCOUNTS).purchases


def test_a_seed_is_kept_for_ever() -> None:
    first, second = draw(1, 2, ALL, 0.5, ACCOUNTS).purchases
    assert (first.provider, first.product, first.way, sorted(first.faults)) == (
        "stripe", "credits", "pay", ["duplicate", "forge"],
    )  # fmt: skip
    assert (second.provider, second.product, second.way) == ("click", "credits", "abandon")


def test_more_purchases_begin_like_fewer() -> None:
    assert draw(7, 500, ALL, 0.2, ACCOUNTS).purchases[:50] == draw(7, 50, ALL, 0.2, ACCOUNTS).purchases


def test_leaving_a_fault_out_changes_no_other_purchase() -> None:
    with_all = draw(7, 300, ALL, 0.2, ACCOUNTS).purchases
    without = draw(7, 300, ALL - {"duplicate"}, 0.2, ACCOUNTS).purchases
    assert [replace(one, faults=one.faults - {"duplicate"}) for one in with_all] == list(without)


def test_no_faults_are_no_faults() -> None:
    for plan in (draw(7, 300, (), 1.0, ACCOUNTS), draw(7, 300, ALL, 0.0, ACCOUNTS)):
        assert not plan.strikes
        assert {(one.way, one.faults, one.comes_back) for one in plan.purchases} == {("pay", frozenset(), True)}


def test_what_cannot_be_is_never_drawn_and_everything_else_is() -> None:
    plan = draw(7, 3000, ALL, 0.6, ACCOUNTS)
    drawn = {(one.provider, fault) for one in plan.purchases for fault in one.faults}
    assert drawn == {(name, fault) for name in ACCOUNTS for fault in ALL - STRIKES.keys()} - CANNOT.keys()
    assert not any({"late", "drop"} <= one.faults for one in plan.purchases)
    assert all(len(one.faults & WAYS.keys()) <= 1 for one in plan.purchases)
    assert {strike.fault for strike in plan.strikes} == set(STRIKES)


def test_the_rate_is_how_likely_each_fault_is() -> None:
    counted = Counter(fault for one in draw(7, 4000, ALL, 0.2, ["stripe"]).purchases for fault in one.faults)
    for fault, share in (("duplicate", 0.2), ("drop", 0.2), ("amount", 0.05), ("refund", 0.1)):
        assert 0.8 * share < counted[fault] / 4000 < 1.2 * share, fault


def test_words_choose() -> None:
    assert chosen("all") == ALL
    assert chosen("none") == frozenset()
    assert chosen("drop, crash") == {"drop", "crash"}
    assert chosen_providers("all") == tuple(ACCOUNTS)
    assert chosen_providers("paypal,click") == ("paypal", "click")


@pytest.mark.parametrize("choose", [chosen, chosen_providers])
def test_a_wrong_word_is_named(choose: object) -> None:
    assert callable(choose)
    with pytest.raises(InvalidRequest, match="'earthquake'"):
        choose("earthquake")


def test_what_could_not_be_injected_is_told() -> None:
    assert could_not(["stripe"], ["drop"]) == []
    assert could_not(["stripe"], ["drop", "late"]) == [NEVER["drop", "late"]]
    told = could_not(ACCOUNTS, ALL)
    assert len(told) == len(CANNOT) + len(NEVER)
    assert told[0].startswith("drop at hypay: ")
    assert could_not(ACCOUNTS, ["duplicate"]) == []
