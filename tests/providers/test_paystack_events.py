"""What each Paystack event means for us (paystack.com/docs/payments/webhooks), and that nothing else gets through."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InvalidRequest, ProviderError, SignatureInvalid, WrongMode
from bridge.providers.paystack import Paystack
from bridge.simulators.base import Delivery, Json
from bridge.simulators.paystack import PaystackSimulator, sign
from bridge.values import Attempt, Event, Named, Notification
from tests.providers.bench import AdapterBench, new_attempt

Bench = AdapterBench[Paystack]
REFERENCE = "0123456789abcdef0123456789abcdef"


def nobody(delivery: Delivery) -> httpx.Response:
    raise AssertionError("Paystack asks nobody")


@pytest.fixture(scope="module")
def paystack() -> Iterator[PaystackSimulator]:
    with PaystackSimulator() as account:
        yield account


@pytest.fixture(scope="module")
def bench(paystack: PaystackSimulator) -> Iterator[Bench]:
    with AdapterBench(Paystack, paystack.settings()) as bench:
        yield bench


@pytest.fixture
def page(paystack: PaystackSimulator, bench: Bench) -> str:
    return bench.open_page(purchase()).url


def purchase() -> Attempt:
    return new_attempt(provider="paystack", currency="NGN", amount=250_000)


def read_body(paystack: PaystackSimulator, bench: Bench, body: Any) -> Notification:
    """Read a body that Paystack has really signed."""
    return bench.read_delivery(paystack.deliver(body if isinstance(body, bytes) else json.dumps(body).encode()))


def event_of(paystack: PaystackSimulator, bench: Bench, kind: str, data: Any) -> Event:
    return read_body(paystack, bench, {"event": kind, "data": data}).event


CHARGE: Json = {"id": 4_099_260_516, "domain": "test", "status": "success", "reference": REFERENCE, "amount": 5}
REFUND: Json = {
    "status": "processed", "transaction_reference": REFERENCE, "refund_reference": "132013318360", "amount": "5000",
    "currency": "NGN", "domain": "test",
}  # fmt: skip
DISPUTE: Json = {"id": 358_950, "status": "pending", "domain": "test", "transaction": {"reference": REFERENCE}}

# every event about a payment of ours
ASKED: dict[str, Json] = {
    "charge.success": CHARGE,
    "refund.pending": REFUND | {"refund_reference": None},
    "refund.processing": REFUND | {"refund_reference": None},
    "refund.processed": REFUND,
    "refund.failed": REFUND | {"amount": 5000},
    "refund.needs-attention": REFUND | {"id": "99"},
    "charge.dispute.create": DISPUTE,
    "charge.dispute.remind": DISPUTE,
    "charge.dispute.resolve": DISPUTE | {"status": "resolved", "resolution": "auto-accepted"},
}
# paystack.com/docs/payments/webhooks#types-of-events
IGNORED = [
    "bank.transfer.rejected", "customeridentification.failed", "customeridentification.success",
    "dedicatedaccount.assign.failed", "dedicatedaccount.assign.success", "invoice.create", "invoice.payment_failed",
    "invoice.update", "paymentrequest.pending", "paymentrequest.success", "subscription.create",
    "subscription.disable", "subscription.expiring_cards", "subscription.not_renew", "transfer.failed",
    "transfer.success", "transfer.reversed", "charge.failed", "something.new",
]  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_an_event_about_a_payment_asks_paystack_about_its_transaction(
    kind: str, paystack: PaystackSimulator, bench: Bench
) -> None:
    paystack.received.clear()
    told = read_body(paystack, bench, {"event": kind, "data": ASKED[kind]})
    assert told.ask == Named(reference=REFERENCE)
    assert (told.ours, told.outcome, told.refused, told.ignored) == (True, None, None, "")
    assert told.event.type == kind
    assert paystack.received == []


@pytest.mark.parametrize("kind", IGNORED)
@pytest.mark.parametrize("data", [{"domain": "live", "customer_id": 1}, {}, [], None, "x"], ids=str)
def test_other_events_are_ignored_whatever_they_carry(
    kind: str, data: Any, paystack: PaystackSimulator, bench: Bench
) -> None:
    told = read_body(paystack, bench, {"event": kind, "data": data})
    assert told.ignored
    assert (told.ask, told.outcome, told.refused) == (None, None, None)


@pytest.mark.parametrize("kind", ASKED)
def test_an_event_of_the_other_mode_needs_a_person(kind: str, paystack: PaystackSimulator, bench: Bench) -> None:
    told = read_body(paystack, bench, {"event": kind, "data": ASKED[kind] | {"domain": "live"}})
    assert isinstance(told.refused, WrongMode)
    assert told.ask is None


def test_an_event_that_names_no_mode_is_asked_about(paystack: PaystackSimulator, bench: Bench) -> None:
    data = {name: value for name, value in REFUND.items() if name != "domain"}
    assert read_body(paystack, bench, {"event": "refund.needs-attention", "data": data}).ask is not None


@pytest.mark.parametrize(
    "reference", ["sess-0001", REFERENCE.upper(), REFERENCE[1:], REFERENCE + "0", "T9171231_41232"]
)
def test_a_reference_that_is_not_shaped_like_ours_may_be_somebody_elses(
    reference: str, paystack: PaystackSimulator, bench: Bench
) -> None:
    told = read_body(paystack, bench, {"event": "charge.success", "data": CHARGE | {"reference": reference}})
    assert (told.ask, told.ours) == (Named(reference=reference), False)


def test_what_the_webhook_says_and_what_asking_says_is_the_same_payment(
    paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt = purchase()
    page = bench.open_page(attempt).url
    (delivery,) = paystack.buyer_pays(page, nobody)
    told = bench.read_delivery(delivery)
    assert told.ask == Named(reference=attempt.reference)
    outcome = bench.ask_about(attempt, "webhook")
    assert outcome.provider_payment_id == str(told.event.payload["data"]["id"])


def test_every_deed_is_told_by_events_that_lead_to_the_transaction(
    paystack: PaystackSimulator, bench: Bench, page: str
) -> None:
    reference = paystack.transaction(page)["reference"]
    deliveries = [
        *paystack.buyer_pays(page, nobody),
        *paystack.merchant_refunds(page, 100),
        *paystack.buyer_disputes(page),
        *paystack.bank_decides(page, won=False),
    ]
    told = [bench.read_delivery(delivery) for delivery in deliveries]
    assert [notification.event.type for notification in told] == [
        "charge.success", "refund.pending", "refund.processed", "charge.dispute.create", "charge.dispute.resolve",
        "refund.processed",
    ]  # fmt: skip
    assert {notification.ask for notification in told} == {Named(reference=reference)}
    assert len({notification.event.id for notification in told}) == len(told)


def test_a_refund_that_needs_a_person_is_in_the_logs(
    paystack: PaystackSimulator, bench: Bench, page: str, caplog: pytest.LogCaptureFixture
) -> None:
    paystack.buyer_pays(page, nobody)
    refund = paystack.give_back(paystack.transaction(page), 100)
    with caplog.at_level(logging.WARNING, "pgcheckout"):
        bench.read_delivery(paystack.settle_refund(refund, "needs-attention")[0])
        bench.read_delivery(paystack.settle_refund(refund)[0])
        somebody_elses = REFUND | {"transaction_reference": "jane-1"}
        read_body(paystack, bench, {"event": "refund.needs-attention", "data": somebody_elses})
    (record,) = caplog.records
    assert "needs attention" in record.getMessage()
    assert paystack.transaction(page)["reference"] in record.getMessage()
    assert "jane" not in record.getMessage()


# ids


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("charge.success", "charge.success:4099260516:5:success"),
     ("refund.processed", f"refund.processed:{REFERENCE}:132013318360:5000:processed"),
     ("refund.pending", f"refund.pending:{REFERENCE}:5000:processed"),
     ("charge.dispute.create", "charge.dispute.create:358950:pending"),
     ("charge.dispute.resolve", "charge.dispute.resolve:358950:resolved:auto-accepted")],
)  # fmt: skip
def test_an_event_has_a_name_that_a_person_can_read(
    kind: str, expected: str, paystack: PaystackSimulator, bench: Bench
) -> None:
    assert event_of(paystack, bench, kind, ASKED[kind]).id == expected


@pytest.mark.parametrize("kind", ASKED)
def test_a_repeated_delivery_has_the_same_id(kind: str, paystack: PaystackSimulator, bench: Bench) -> None:
    data = ASKED[kind]
    backwards = dict(reversed(data.items())) | {"customer": {"email": "x@y.example"}}
    assert event_of(paystack, bench, kind, data).id == event_of(paystack, bench, kind, backwards).id


@pytest.mark.parametrize(
    ("kind", "change"),
    [("charge.success", {"id": 1}), ("refund.processed", {"refund_reference": "1"}),
     ("refund.processed", {"amount": "1"}), ("refund.processed", {"status": "failed"}),
     ("refund.processed", {"transaction_reference": "f" * 32}), ("charge.dispute.create", {"id": 1}),
     ("charge.dispute.resolve", {"resolution": "declined"}), ("charge.dispute.resolve", {"refund_amount": 7})],
    ids=str,
)  # fmt: skip
def test_other_news_has_another_id(kind: str, change: Json, paystack: PaystackSimulator, bench: Bench) -> None:
    data = ASKED[kind]
    assert event_of(paystack, bench, kind, data).id != event_of(paystack, bench, kind, data | change).id


def test_an_id_is_never_too_long_to_be_stored(paystack: PaystackSimulator, bench: Bench) -> None:
    ids = {
        event_of(paystack, bench, "charge.success", CHARGE | {"reference": REFERENCE, "status": end * 300}).id
        for end in "ab"
    }
    assert len(ids) == 2
    assert all(len(identity) <= 255 for identity in ids)


def test_an_event_without_anything_to_tell_it_by_is_known_by_its_bytes(
    paystack: PaystackSimulator, bench: Bench
) -> None:
    one, same, other = (event_of(paystack, bench, "subscription.create", {"plan": n}).id for n in (1, 1, 2))
    assert one == same != other


# what is kept


def test_nothing_personal_or_secret_is_kept(paystack: PaystackSimulator, bench: Bench, page: str) -> None:
    deliveries = [
        *paystack.buyer_pays(page, nobody), *paystack.merchant_refunds(page, 100), *paystack.buyer_disputes(page),
        *paystack.bank_decides(page, won=False),
    ]  # fmt: skip
    for delivery in deliveries:
        kept = json.dumps(bench.read_delivery(delivery).event.to_json())
        for personal in ("jane", "Jane", "Private", "0800", "203.0.113", "4081", "AUTH_", "merchant@", "example.test"):
            assert personal not in kept
        assert '"domain": "test"' in kept


def test_what_postgres_cannot_keep_is_replaced(paystack: PaystackSimulator, bench: Bench) -> None:
    told = read_body(paystack, bench, b'{"event": "charge.success", "data": {"id": 1, "reference": "a\\u0000\\ud800"}}')
    assert told.event.payload["data"]["reference"] == "a??"
    assert told.ask == Named(reference="a??")


# forgeries and nonsense


def test_a_forged_delivery_is_refused(paystack: PaystackSimulator, bench: Bench, page: str) -> None:
    (delivery,) = paystack.buyer_pays(page, nobody)
    assert bench.read_delivery(delivery).ask is not None
    with pytest.raises(SignatureInvalid):
        bench.read_delivery(paystack.forged(delivery))


def test_while_keys_roll_over_both_verify(paystack: PaystackSimulator) -> None:
    body = json.dumps({"event": "charge.success", "data": CHARGE}).encode()
    keys = paystack.settings() | {"paystack_secret_keys": f"sk_test_new,{paystack.secret_key}"}
    with AdapterBench(Paystack, keys) as bench:
        for key in ("sk_test_new", paystack.secret_key):
            assert bench.read_delivery(({"x-paystack-signature": sign(body, key)}, body)).ask is not None
        with pytest.raises(SignatureInvalid):
            bench.read_delivery(({"x-paystack-signature": sign(body, "sk_test_other")}, body))


NONSENSE = [
    b"", b"{", b"[]", b"null", b'"x"', b"5", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"event": null}', b'{"event": 5}',
    b'{"event": ""}', b'{"event": "charge.success"}', b'{"event": "charge.success", "data": null}',
    b'{"event": "charge.success", "data": []}', b'{"event": "charge.success", "data": {"reference": null}}',
    b'{"event": "charge.success", "data": {"reference": 5}}', b'{"event": "refund.processed", "data": {"id": 5}}',
    b'{"event": "charge.success", "data": {"reference": ""}}', b'{"event": "charge.success", "data": {"amount": NaN}}',
    b'{"event": "charge.dispute.create", "data": {"transaction": null}}', b'{"data": {}}',
    b'{"event": "' + b"x" * 256 + b'", "data": {}}',
    b'{"event": "charge.success", "data": {"reference": "' + b"x" * 256 + b'"}}',
    b'{"event": "charge.success", "data": {"id": ' + b"9" * 5_000 + b"}}",
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: ascii(body[:60]))
def test_a_genuine_body_that_makes_no_sense_is_an_invalid_request(
    body: bytes, paystack: PaystackSimulator, bench: Bench
) -> None:
    with pytest.raises(InvalidRequest):
        read_body(paystack, bench, body)
    # nothing of it is looked at before the signature is checked
    for headers in ({}, {"x-paystack-signature": sign(body, "sk_test_other")}):
        with pytest.raises(SignatureInvalid):
            bench.read_delivery((headers, body))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(REFERENCE),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "reference", "transaction_reference", "transaction", "domain", "amount", "status"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(kind=st.sampled_from([*ASKED, "other"]) | st.text(max_size=8), data=JSONS)
def test_any_genuine_event_is_a_notification_or_an_error_of_ours(
    kind: str, data: Any, paystack: PaystackSimulator, bench: Bench
) -> None:
    try:
        told = read_body(paystack, bench, {"event": kind, "data": data})
    except (InvalidRequest, ProviderError):
        return
    assert 1 <= len(told.event.id) <= 255
    assert [bool(told.ask), bool(told.ignored), bool(told.refused)].count(True) == 1
    json.dumps(told.event.payload, allow_nan=False)


@given(body=st.binary(max_size=200))
def test_any_genuine_bytes_are_a_notification_or_an_invalid_request(
    body: bytes, paystack: PaystackSimulator, bench: Bench
) -> None:
    try:
        read_body(paystack, bench, body)
    except InvalidRequest:
        return


@given(headers=st.dictionaries(st.just("x-paystack-signature") | st.text(), st.text()), body=st.binary(max_size=50))
def test_any_headers_without_the_signature_are_refused(headers: dict[str, str], body: bytes, bench: Bench) -> None:
    with pytest.raises(SignatureInvalid):
        bench.read_delivery((headers, body))
