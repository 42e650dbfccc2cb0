"""Money that goes back at Paystack: refunds asked for here or in the dashboard, and disputes, each counted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from bridge.errors import ProviderRefused, ProviderUnavailable
from bridge.providers.paystack import Paystack
from bridge.simulators.base import Delivery, Fault, Json
from bridge.simulators.paystack import PaystackSimulator
from bridge.values import Attempt, Refund, RefundOrder
from tests.providers.bench import AdapterBench, new_attempt

Bench = AdapterBench[Paystack]
NOT_FOUND = Fault(status=404, body=b'{"status": false, "message": "Dispute not found", "code": "not_found"}')


def nobody(delivery: Delivery) -> httpx.Response:
    raise AssertionError("Paystack asks nobody")


@pytest.fixture(scope="module")
def account() -> Iterator[PaystackSimulator]:
    with PaystackSimulator() as account:
        yield account


@pytest.fixture(scope="module")
def bench(account: PaystackSimulator) -> Iterator[Bench]:
    with AdapterBench(Paystack, account.settings()) as bench:
        yield bench


@pytest.fixture
def paystack(account: PaystackSimulator) -> PaystackSimulator:
    """A Paystack account, with nothing left over from another test."""
    account.received.clear()
    account.faults.clear()
    account.refunds.clear()
    account.disputes.clear()
    account.fee, account.list_disputes = 0, False
    return account


def paid(paystack: PaystackSimulator, bench: Bench, **changes: Any) -> tuple[Attempt, str]:
    """A paid attempt and its page."""
    values = {"provider": "paystack", "currency": "NGN", "amount": 250_000, **changes}
    attempt = new_attempt(**values)
    page = bench.open_page(attempt)
    paystack.buyer_pays(page.url, nobody)
    stored = {
        "reference": attempt.reference,
        "provider_session_id": page.provider_session_id,
        "provider_payment_id": str(paystack.transaction(page.url)["id"]),
        "status": "completed",
    }
    paystack.received.clear()
    return new_attempt(**values | stored), page.url


def order(amount: int = 100_000, key: str = "pgcheckout-1", **changes: Any) -> RefundOrder:
    return RefundOrder(key=key, amount=amount, in_full=False, **changes)


def sent(paystack: PaystackSimulator) -> list[Json]:
    """The refunds that were ordered over the API."""
    return [json.loads(r.body) for r in paystack.received if (r.method, r.path) == ("POST", "/refund")]


# ordering a refund


def test_a_refund_is_ordered_with_exactly_the_documented_fields(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    given = bench.refund(attempt, order(reason="late"))
    assert sent(paystack) == [
        {
            "transaction": attempt.provider_payment_id,
            "amount": 100_000,
            "currency": "NGN",
            "merchant_note": "pgcheckout-1",
        }
    ]
    assert given == Refund(provider_refund_id=str(paystack.refunds[0]["id"]), amount=100_000, status="pending")
    assert paystack.given_back(page) == 100_000
    # the same id as when it is asked about, and when its webhook comes
    assert bench.ask_about(attempt).refunds == (given,)


def test_francs_go_back_as_francs(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench, currency="XOF", amount=2500)
    given = bench.refund(attempt, order(2500))
    assert sent(paystack)[0]["amount"] == 250_000
    assert given.amount == paystack.given_back(page) == 2500
    assert bench.ask_about(attempt).refunds == (given,)


def test_the_same_order_again_gives_nothing_back_a_second_time(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    first = bench.refund(attempt, order())
    again = bench.refund(attempt, order())
    assert first == again
    assert len(sent(paystack)) == 1
    other = bench.refund(attempt, order(key="pgcheckout-12"))
    assert other.provider_refund_id != first.provider_refund_id
    assert paystack.given_back(page) == 200_000


def test_an_order_that_failed_at_paystack_is_told_and_not_sent_again(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, _ = paid(paystack, bench)
    bench.refund(attempt, order())
    paystack.settle_refund(paystack.refunds[0], "failed")
    assert bench.refund(attempt, order()).status == "failed"
    assert len(sent(paystack)) == 1


@pytest.mark.parametrize(
    "fault", [Fault(lost=True), Fault(cut=True), Fault(garbled=True, body=b"{}")], ids=["lost", "cut", "garbled"]
)
def test_a_refund_whose_answer_was_lost_is_found_in_the_list(
    fault: Fault, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.faults.extend([Fault(), fault])
    given = bench.refund(attempt, order())
    assert given.provider_refund_id == str(paystack.refunds[0]["id"])
    assert len(sent(paystack)) == 1
    assert paystack.given_back(page) == 100_000


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refund_that_did_not_arrive_can_be_ordered_again(
    status: int, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.faults.extend([Fault(), Fault(status=status)])
    with pytest.raises(ProviderUnavailable, match=f"HTTP {status}"):
        bench.refund(attempt, order())
    assert len(sent(paystack)) == 1
    assert paystack.given_back(page) == 0
    bench.refund(attempt, order())
    assert paystack.given_back(page) == 100_000


def test_when_the_list_cannot_be_read_either_the_next_order_finds_out(
    paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.faults.extend([Fault(), Fault(lost=True), *[Fault(status=503)] * 3])
    with pytest.raises(ProviderUnavailable):
        bench.refund(attempt, order())
    assert bench.refund(attempt, order()).amount == 100_000
    assert paystack.given_back(page) == 100_000
    assert len(sent(paystack)) == 1


def test_nothing_is_sent_while_the_list_cannot_be_read(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, _ = paid(paystack, bench)
    paystack.faults.extend([Fault(status=503)] * 3)
    with pytest.raises(ProviderUnavailable):
        bench.refund(attempt, order())
    assert sent(paystack) == []


def test_more_than_is_left_is_refused(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, _ = paid(paystack, bench)
    with pytest.raises(ProviderRefused, match="HTTP 400"):
        bench.refund(attempt, order(250_001))
    bench.refund(attempt, order(250_000))
    with pytest.raises(ProviderRefused, match="transaction_reversed") as refused:
        bench.refund(attempt, order(1, key="another"))
    assert refused.value.hint == "Nothing is left to give back."


def test_an_empty_balance_says_what_to_do(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, _ = paid(paystack, bench)
    message = "Insufficient balance to fulfill this refund. Please top up."
    body = json.dumps({"status": False, "message": message, "code": "unknown"}).encode()
    paystack.faults.extend([Fault(), Fault(status=400, body=body)])
    with pytest.raises(ProviderRefused, match="insufficient balance") as refused:
        bench.refund(attempt, order())
    assert "Top up" in refused.value.hint


def test_what_is_not_paid_cannot_be_refunded(bench: Bench) -> None:
    with pytest.raises(ValueError, match="must be paid"):
        bench.refund(new_attempt(provider="paystack"), order())


# the truth about refunds


@pytest.mark.parametrize(
    ("said", "status", "attention"),
    [("pending", "pending", False), ("processing", "pending", False), ("needs-attention", "pending", True),
     ("processed", "succeeded", False), ("failed", "failed", False), ("something new", "pending", False)],
)  # fmt: skip
def test_a_refund_stands_as_the_table_says(
    said: str, status: str, attention: bool, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    refund = paystack.give_back(paystack.transaction(page), 100)
    refund["status"] = said
    (told,) = bench.ask_about(attempt).refunds
    assert (told.provider_refund_id, told.status, told.kind) == (str(refund["id"]), status, "refund")
    assert (told.reason or "").startswith("needs attention: ") is attention


def test_refunds_from_the_dashboard_are_told_in_full_and_in_part(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    paystack.merchant_refunds(page, 50_000)
    assert [told.amount for told in bench.ask_about(attempt).refunds] == [50_000]
    paystack.merchant_refunds(page)
    outcome = bench.ask_about(attempt)
    assert paystack.transaction(page)["status"] == "reversed"
    assert (outcome.status, outcome.amount, outcome.disputed) == ("completed", 250_000, False)
    assert sorted((told.amount, told.status) for told in outcome.refunds) == [
        (50_000, "succeeded"), (200_000, "succeeded")
    ]  # fmt: skip


def test_all_pages_of_the_list_are_read(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    for _ in range(120):
        paystack.give_back(paystack.transaction(page), 100)
    told = bench.ask_about(attempt).refunds
    assert len({refund.provider_refund_id for refund in told}) == 120
    assert [r.query.split("page=")[1] for r in paystack.received if r.path == "/refund"] == ["1", "2", "3"]


def test_a_list_that_ends_with_a_full_page_ends(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    for _ in range(50):
        paystack.give_back(paystack.transaction(page), 100)
    assert len(bench.ask_about(attempt).refunds) == 50


def test_a_server_that_repeats_its_first_page_is_not_asked_for_ever(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    rows = [paystack.give_back(paystack.transaction(page), 100) for _ in range(50)]
    same = Fault(garbled=True, body=json.dumps({"status": True, "data": rows}).encode())
    paystack.faults.extend([Fault(), NOT_FOUND, same, same])
    assert len(bench.ask_about(attempt).refunds) == 50
    assert len(paystack.received) == 4


def test_a_refund_of_another_payment_is_never_taken_for_ours(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    ours = paystack.give_back(paystack.transaction(page), 100)
    rows = [ours | {"id": 7, "transaction": 1}, ours | {"id": 8, "transaction": {"id": ours["transaction"]}}]
    everybodys = Fault(garbled=True, body=json.dumps({"status": True, "data": rows}).encode())
    paystack.faults.extend([Fault(), NOT_FOUND, everybodys])
    assert [told.provider_refund_id for told in bench.ask_about(attempt).refunds] == ["8"]


@pytest.mark.parametrize(("amount", "told"), [("5000", 5_000), (5000, 5_000), ("005000", 5_000)])
def test_an_amount_is_read_as_a_number_or_its_digits(
    amount: Any, told: int, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.give_back(paystack.transaction(page), amount)
    assert [refund.amount for refund in bench.ask_about(attempt).refunds] == [told]


@pytest.mark.parametrize("amount", ["50.00", "-1", -1, 50.5, True, None, "\u0665\u0660", "9" * 16, [], {}])
def test_an_amount_that_is_none_is_not_guessed(amount: Any, paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    row = paystack.give_back(paystack.transaction(page), 1) | {"amount": amount}
    body = json.dumps({"status": True, "data": [row]}).encode()
    paystack.faults.extend([Fault(), NOT_FOUND, Fault(garbled=True, body=body)])
    with pytest.raises(ProviderUnavailable):
        bench.ask_about(attempt)


def test_a_full_refund_with_the_fees_is_no_more_than_the_price(paystack: PaystackSimulator, bench: Bench) -> None:
    paystack.fee = 10_283
    attempt, page = paid(paystack, bench)
    paystack.merchant_refunds(page)
    assert paystack.given_back(page) == 260_283
    outcome = bench.ask_about(attempt)
    assert (outcome.amount, [told.amount for told in outcome.refunds]) == (250_000, [250_000])


# disputes


@pytest.mark.parametrize("as_list", [False, True])
def test_a_dispute_is_told_from_its_beginning_to_its_end(
    as_list: bool, paystack: PaystackSimulator, bench: Bench
) -> None:
    paystack.list_disputes = as_list
    attempt, page = paid(paystack, bench)
    assert bench.ask_about(attempt).refunds == ()
    paystack.buyer_disputes(page)
    (told,) = bench.ask_about(attempt).refunds
    assert (told.kind, told.amount, told.status, told.reason) == ("dispute", 250_000, "pending", "chargeback")
    assert told.provider_refund_id == f"dispute-{paystack.disputes[0]['id']}"
    paystack.bank_decides(page, won=True)
    outcome = bench.ask_about(attempt)
    assert (outcome.status, [refund.status for refund in outcome.refunds]) == ("completed", ["failed"])


def test_the_refund_that_a_lost_dispute_leads_to_is_not_counted_twice(
    paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.buyer_disputes(page)
    paystack.bank_decides(page, won=False)
    assert paystack.transaction(page)["status"] == "reversed"
    assert len(paystack.refunds) == 1
    outcome = bench.ask_about(attempt)
    assert [(told.kind, told.amount, told.status) for told in outcome.refunds] == [("dispute", 250_000, "succeeded")]
    assert outcome.disputed is False


def test_a_refund_that_names_a_dispute_counts_when_the_dispute_does_not(
    paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.buyer_disputes(page)
    paystack.bank_decides(page, won=True)
    goodwill = paystack.give_back(paystack.transaction(page), 100, dispute=paystack.disputes[0]["id"])
    told = {refund.provider_refund_id: refund.status for refund in bench.ask_about(attempt).refunds}
    assert told == {str(goodwill["id"]): "pending", f"dispute-{paystack.disputes[0]['id']}": "failed"}


@pytest.mark.parametrize(
    ("state", "status"),
    [({"status": "pending"}, "pending"), ({"status": "awaiting-bank-feedback", "resolution": "declined"}, "pending"),
     ({"status": "archived"}, "pending"), ({"status": "resolved", "resolution": None}, "pending"),
     ({"status": "resolved", "resolution": "merchant-accepted"}, "succeeded"),
     ({"status": "resolved", "resolution": "auto-accepted"}, "succeeded"),
     ({"status": "resolved", "resolution": "auto-accepted", "refund_amount": None}, "pending"),
     ({"status": "resolved", "resolution": "declined", "refund_amount": None}, "failed"),
     ({"status": "resolved", "resolution": "something new"}, "pending")],
    ids=str,
)  # fmt: skip
def test_a_dispute_stands_as_the_table_says(
    state: Json, status: str, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = paid(paystack, bench)
    paystack.buyer_disputes(page)
    paystack.disputes[0].update(state)
    (told,) = bench.ask_about(attempt).refunds
    assert (told.status, told.amount) == (status, 250_000)


def test_a_dispute_over_a_part_takes_a_part(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    paystack.buyer_disputes(page)
    paystack.disputes[0]["refund_amount"] = 5_000
    assert [told.amount for told in bench.ask_about(attempt).refunds] == [5_000]


def test_a_refund_and_a_dispute_with_the_same_number_are_two(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    paystack.buyer_disputes(page)
    refund = paystack.give_back(paystack.transaction(page), 100)
    refund["id"] = paystack.disputes[0]["id"]
    assert len({told.provider_refund_id for told in bench.ask_about(attempt).refunds}) == 2


def test_a_reversal_that_nothing_explains_needs_a_person(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = paid(paystack, bench)
    paystack.transaction(page)["status"] = "reversed"
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.refunds, outcome.disputed) == ("completed", (), True)


def test_what_went_back_is_only_asked_for_when_something_was_paid(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt = new_attempt(provider="paystack", currency="NGN", amount=250_000, expires_at=datetime.now(UTC))
    bench.open_page(attempt)
    paystack.received.clear()
    assert bench.ask_about(attempt).status == "expired"
    assert [request.path for request in paystack.received] == [f"/transaction/verify/{attempt.reference}"]


def test_a_payment_is_not_told_while_what_went_back_is_unknown(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, _ = paid(paystack, bench)
    paystack.faults.extend([Fault(), *[Fault(status=503)] * 3])
    with pytest.raises(ProviderUnavailable):
        bench.ask_about(attempt)
