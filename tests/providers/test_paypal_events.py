"""What each PayPal event means for us (developer.paypal.com/api/rest/webhooks/event-names)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InvalidRequest, ProviderError, ProviderRefused, ProviderUnavailable
from bridge.providers.paypal import PayPal
from bridge.simulators.base import Delivery, Fault, Json
from bridge.simulators.paypal import PayPalSimulator
from bridge.values import Attempt, Event, Named, Notification, Outcome, Refund, RefundStatus
from tests.providers.bench import AdapterBench, new_attempt

Bench = AdapterBench[PayPal]


@dataclass(frozen=True)
class Purchase:
    """A payment of 25.00 USD on its page."""

    attempt: Attempt
    page: str
    order: str
    capture: Json


@pytest.fixture(scope="module")
def server() -> Iterator[PayPalSimulator]:
    with PayPalSimulator() as server:
        yield server


@pytest.fixture
def paypal(server: PayPalSimulator) -> PayPalSimulator:
    server.faults.clear()
    server.received.clear()
    server.captured.clear()
    return server


@pytest.fixture(scope="module")
def bench(server: PayPalSimulator) -> Iterator[Bench]:
    with AdapterBench(PayPal, server.settings()) as bench:
        yield bench


@pytest.fixture
def purchase(paypal: PayPalSimulator, bench: Bench) -> Purchase:
    attempt = new_attempt(provider="paypal")
    page = bench.open_page(attempt)
    attempt = replace(attempt, provider_session_id=page.provider_session_id)
    paypal.approve(page.provider_session_id)
    outcome = bench.ask_about(attempt)
    attempt = replace(attempt, status="completed", provider_payment_id=outcome.provider_payment_id)
    paypal.received.clear()
    return Purchase(attempt, page.url, page.provider_session_id, paypal.capture_of(page.url))


def event(kind: str, resource: Any) -> Event:
    return Event(id="WH-1", type=kind, payload={"id": "WH-1", "event_type": kind, "resource": resource})


def meaning(bench: Bench, kind: str, resource: Any) -> Notification:
    """What a genuine event means."""
    return bench.run(bench.adapter.interpret(event(kind, resource)))


def outcome_of(bench: Bench, delivery: Delivery) -> Outcome:
    notification = bench.read_delivery(delivery)
    assert notification.outcome is not None, notification
    return notification.outcome


# orders and captures: the body is no proof


ORDER_EVENTS = (
    "CHECKOUT.ORDER.APPROVED", "CHECKOUT.ORDER.COMPLETED", "CHECKOUT.ORDER.SAVED", "CHECKOUT.ORDER.VOIDED",
    "CHECKOUT.PAYMENT-APPROVAL.REVERSED",
)  # fmt: skip
CAPTURE_EVENTS = tuple(f"PAYMENT.CAPTURE.{what}" for what in ("COMPLETED", "PENDING", "DENIED", "DECLINED"))


@pytest.mark.parametrize("kind", ORDER_EVENTS)
@pytest.mark.parametrize("id_field", ["id", "order_id"])
def test_an_order_is_asked_about(kind: str, id_field: str, paypal: PayPalSimulator, bench: Bench) -> None:
    reference = "0a" * 16
    resource = {id_field: "5O190127TN364715T", "purchase_units": [{"custom_id": reference, "reference_id": reference}]}
    notification = meaning(bench, kind, resource)
    assert notification.ask == Named(reference=reference, provider_session_id="5O190127TN364715T")
    assert (notification.outcome, notification.ours) == (None, True)
    assert paypal.received == []


@pytest.mark.parametrize("kind", CAPTURE_EVENTS)
def test_a_capture_is_asked_about(kind: str, paypal: PayPalSimulator, bench: Bench, purchase: Purchase) -> None:
    notification = bench.read_delivery(paypal.event(kind, "capture", purchase.capture))
    assert notification.ask == Named(reference=purchase.attempt.reference, provider_session_id=purchase.order)
    assert (notification.outcome, notification.ours) == (None, True)


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        ("CHECKOUT.ORDER.APPROVED", {"id": "5O190127TN364715T"}),
        ("CHECKOUT.ORDER.APPROVED", {"id": "5O190127TN364715T", "purchase_units": [{}]}),
        ("PAYMENT.CAPTURE.COMPLETED", {"supplementary_data": {"related_ids": {"order_id": "5O190127TN364715T"}}}),
    ],
)
def test_what_names_only_an_order_may_be_somebody_elses(kind: str, resource: Json, bench: Bench) -> None:
    notification = meaning(bench, kind, resource)
    assert notification.ask == Named(provider_session_id="5O190127TN364715T")
    assert not notification.ours


@pytest.mark.parametrize("custom_id", ["4711", "sess-0001", "A1" * 16, 5, {"a": 1}])
@pytest.mark.parametrize("kind", ["CHECKOUT.ORDER.APPROVED", "PAYMENT.CAPTURE.COMPLETED", "PAYMENT.CAPTURE.REFUNDED"])
def test_what_others_sell_on_the_same_account_is_ignored(
    kind: str, custom_id: Any, paypal: PayPalSimulator, bench: Bench
) -> None:
    resource = {"id": "5O190127TN364715T", "custom_id": custom_id, "purchase_units": [{"custom_id": custom_id}]}
    notification = meaning(bench, kind, resource)
    assert "did not ask for" in notification.ignored
    assert (notification.ask, notification.outcome, paypal.received) == (None, None, [])


@pytest.mark.parametrize(
    "kind", ["PAYMENT.SALE.COMPLETED", "BILLING.SUBSCRIPTION.CREATED", "PAYMENT.AUTHORIZATION.CREATED", "PAYMENT"]
)
def test_other_events_are_ignored(kind: str, paypal: PayPalSimulator, bench: Bench) -> None:
    assert "not an event" in meaning(bench, kind, {"id": "5O190127TN364715T"}).ignored
    assert paypal.received == []


# refunds and reversals


def test_a_refund_is_read_again_with_all_others_of_its_payment(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (first,) = paypal.merchant_refunds(purchase.page, 500)
    (second,) = paypal.merchant_refunds(purchase.page, 700)
    # in whichever order they arrive
    for delivery in (second, first):
        outcome = outcome_of(bench, delivery)
        assert (outcome.status, outcome.source, outcome.amount) == ("completed", "webhook", 2500)
        assert (outcome.reference, outcome.provider_session_id) == (purchase.attempt.reference, purchase.order)
        assert outcome.provider_payment_id == purchase.capture["id"]
        assert sorted(refund.amount for refund in outcome.refunds) == [500, 700]
        assert replace(outcome, source="verify") == bench.ask_about(purchase.attempt)


def test_what_the_body_says_of_a_refund_is_not_believed(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (delivery,) = paypal.merchant_refunds(purchase.page, 500)
    told = json.loads(delivery[1])["resource"]
    told["amount"]["value"] = "25.00"
    notification = meaning(bench, "PAYMENT.CAPTURE.REFUNDED", told)
    assert notification.outcome is not None
    assert [refund.amount for refund in notification.outcome.refunds] == [500]


@pytest.mark.parametrize("where", [("order", "capture"), ("order",), ("capture",), ()], ids=str)
@pytest.mark.parametrize("amount", [2500, 900])
def test_a_reversal_is_money_that_went_back_wherever_paypal_shows_it(
    where: tuple[str, ...], amount: int, paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    listed, shown = "order" in where, "capture" in where
    delivery = paypal.reverse(purchase.page, amount, listed=listed, shown=shown)
    outcome = outcome_of(bench, delivery)
    (refund,) = outcome.refunds
    assert (refund.amount, refund.status, refund.kind) == (amount, "succeeded", "refund")
    assert refund.provider_refund_id == json.loads(delivery[1])["resource"]["id"]
    assert (outcome.status, outcome.amount) == ("completed", 2500)


def test_a_reversal_written_with_a_sign_counts_the_same(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    delivery = paypal.reverse(purchase.page, 900)
    (reversal,) = [refund for refund in paypal.refunds.values() if purchase.capture["id"] in str(refund["links"])]
    reversal["amount"] = {"currency_code": "USD", "value": "-9.00"}
    assert [refund.amount for refund in outcome_of(bench, delivery).refunds] == [900]


def test_a_refund_event_about_the_capture_itself_is_read_the_same_way(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    paypal.merchant_refunds(purchase.page, 500)
    resource = purchase.capture | {"links": []}
    notification = meaning(bench, "PAYMENT.CAPTURE.REFUNDED", resource)
    assert notification.outcome is not None
    assert [refund.amount for refund in notification.outcome.refunds] == [500]


def test_a_refund_of_an_order_that_paypal_has_forgotten_is_still_told(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (delivery,) = paypal.merchant_refunds(purchase.page)
    del paypal.orders[purchase.order]
    outcome = outcome_of(bench, delivery)
    assert (outcome.status, outcome.amount, outcome.reference) == ("completed", 2500, purchase.attempt.reference)
    assert [(refund.amount, refund.status) for refund in outcome.refunds] == [(2500, "succeeded")]


def test_a_refund_of_somebody_elses_payment_is_ignored(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (delivery,) = paypal.merchant_refunds(purchase.page, 500)
    paypal.captures[purchase.capture["id"]]["custom_id"] = "4711"
    assert "did not ask for" in bench.read_delivery(delivery).ignored


# disputes


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("RESOLVED_BUYER_FAVOUR", "succeeded"), ("RESOLVED_SELLER_FAVOUR", "failed"), ("CANCELED_BY_BUYER", "failed"),
        ("RESOLVED_WITH_PAYOUT", "pending"), ("NONE", "pending"), ("SOMETHING_NEW", "pending"),
    ],
)  # fmt: skip
def test_a_dispute_is_open_until_it_is_decided(
    outcome: str, status: RefundStatus, paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (created,) = paypal.buyer_disputes(purchase.page)
    dispute_id = json.loads(created[1])["resource"]["dispute_id"]
    expected = Refund(
        provider_refund_id=dispute_id, amount=2500, status="pending", kind="dispute",
        reason="MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
    )  # fmt: skip
    assert outcome_of(bench, created) == Outcome(
        provider="paypal",
        status=None,
        source="webhook",
        reference=purchase.attempt.reference,
        provider_payment_id=purchase.capture["id"],
        refunds=(expected,),
    )
    closed = paypal.close_dispute(purchase.page, outcome)
    assert outcome_of(bench, closed).refunds == (replace(expected, status=status),)
    # an older event that arrives late says the same: the dispute is read again
    assert outcome_of(bench, created).refunds == (replace(expected, status=status),)


def test_an_outcome_counts_only_once_the_dispute_is_resolved(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (created,) = paypal.buyer_disputes(purchase.page)
    (dispute,) = [d for d in paypal.disputes.values() if purchase.capture["id"] in str(d)]
    dispute["dispute_outcome"] = {"outcome_code": "RESOLVED_BUYER_FAVOUR"}
    assert outcome_of(bench, created).refunds[0].status == "pending"


@pytest.mark.parametrize(
    ("money", "amount"),
    [({"currency_code": "USD", "value": "9.00"}, 900), ({"currency_code": "EUR", "value": "9.00"}, 2500)],
    ids=["a part", "another currency"],
)
def test_a_dispute_is_about_its_own_amount(
    money: Json, amount: int, paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (created,) = paypal.buyer_disputes(purchase.page)
    (dispute,) = [d for d in paypal.disputes.values() if purchase.capture["id"] in str(d)]
    dispute["dispute_amount"] = money
    assert outcome_of(bench, created).refunds[0].amount == amount


def test_a_dispute_of_another_kind_of_payment_is_ignored(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (created,) = paypal.buyer_disputes(purchase.page)
    (dispute,) = [d for d in paypal.disputes.values() if purchase.capture["id"] in str(d)]
    other: Json = {"seller_transaction_id": "SOMETHINGELSE"}
    dispute["disputed_transactions"].insert(0, other)
    assert outcome_of(bench, created).provider_payment_id == purchase.capture["id"]
    dispute["disputed_transactions"] = [other]
    assert "did not ask for" in bench.read_delivery(created).ignored


def test_a_dispute_that_may_not_be_read_is_an_error_and_not_ignored(
    paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (created,) = paypal.buyer_disputes(purchase.page)
    for before in range(2):  # the dispute, the capture
        paypal.faults.extend([*[Fault()] * before, Fault(status=403, body=b'{"name": "NOT_AUTHORIZED"}')])
        with pytest.raises(ProviderRefused, match="NOT_AUTHORIZED"):
            bench.read_delivery(created)


# what can go wrong


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(garbled=True, body=b"{}"), Fault(lost=True)])
def test_trouble_while_asking_asks_for_another_delivery(
    fault: Fault, paypal: PayPalSimulator, bench: Bench, purchase: Purchase
) -> None:
    (refunded,), (disputed,) = paypal.merchant_refunds(purchase.page, 500), paypal.buyer_disputes(purchase.page)
    assert outcome_of(bench, refunded).refunds
    for delivery, questions in ((refunded, 3), (disputed, 2)):
        for before in range(questions):
            paypal.faults.extend([*[Fault()] * before, *[fault] * 3])
            with pytest.raises(ProviderUnavailable):
                bench.read_delivery(delivery)
            paypal.faults.clear()
        assert outcome_of(bench, delivery).refunds


@pytest.mark.parametrize(
    "kind", [*ORDER_EVENTS[:1], *CAPTURE_EVENTS[:1], "PAYMENT.CAPTURE.REVERSED", "CUSTOMER.DISPUTE.X"]
)
@pytest.mark.parametrize(
    "resource",
    [None, [], "x", {}, {"id": None}, {"id": "../../v1/oauth2/token"}, {"id": "a b"}, {"dispute_id": "x/../y"},
     {"purchase_units": [None]}, {"purchase_units": {"a": 1}}, {"supplementary_data": []}, {"id": "X" * 100}],
    ids=str,
)  # fmt: skip
def test_a_genuine_event_that_makes_no_sense_is_an_invalid_request(
    kind: str, resource: Any, paypal: PayPalSimulator, bench: Bench
) -> None:
    with pytest.raises((InvalidRequest, ProviderRefused)):
        meaning(bench, kind, resource)
    assert all(".." not in request.path for request in paypal.received)


@pytest.mark.parametrize(
    "links", [5, [5], [{"rel": "up"}], [{"rel": "up", "href": "https://x/a b"}], [{"rel": "up", "href": ""}]]
)
def test_a_link_that_leads_nowhere_is_not_followed(links: Any, paypal: PayPalSimulator, bench: Bench) -> None:
    with pytest.raises(InvalidRequest):
        meaning(bench, "PAYMENT.CAPTURE.REVERSED", {"id": "5O190127TN364715T", "links": links})
    assert paypal.received == []


def test_no_resource_of_any_shape_is_worse_than_that(paypal: PayPalSimulator, bench: Bench, purchase: Purchase) -> None:
    (refunded,), (disputed,) = paypal.merchant_refunds(purchase.page, 500), paypal.buyer_disputes(purchase.page)
    bodies = [json.loads(body)["resource"] for _, body in (refunded, disputed)]
    bodies += [copy.deepcopy(paypal._public(paypal.orders[purchase.order])), purchase.capture]
    anything = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("5O1")),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    kinds = st.sampled_from(
        [ORDER_EVENTS[0], CAPTURE_EVENTS[0], "PAYMENT.CAPTURE.REFUNDED", "CUSTOMER.DISPUTE.CREATED"]
    )

    @given(kinds, st.sampled_from(bodies), st.data())
    def judge(kind: str, body: Json, data: st.DataObject) -> None:
        changed = dict(body)
        for name in data.draw(st.lists(st.sampled_from(sorted(body)), max_size=3)):
            changed[name] = data.draw(anything)
        try:
            notification = meaning(bench, kind, changed)
        except (InvalidRequest, ProviderError):
            return
        assert notification.outcome or notification.ask or notification.ignored

    judge()
