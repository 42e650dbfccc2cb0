"""What each Stripe event means for us (docs.stripe.com/api/events/types), and that nothing else gets through."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stripe as official
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from bridge.errors import InvalidRequest, ProviderError, ProviderUnavailable, SignatureInvalid, WrongMode
from bridge.providers.stripe import REFERENCE
from bridge.simulators.stripe import Fault, StripeSimulator
from bridge.simulators.stripe_world import Json, sign
from bridge.values import Notification, Refund, RefundStatus
from tests.providers.stripe_bench import Bench, new_attempt
from tests.support.database import Database

IGNORED, REFUNDS, DISPUTE = "ignored", "refunds", "dispute"

# every event type that concerns a payment: what it is about, in which state, and what it means
MEANING: dict[str, tuple[str, Json, str]] = {
    "checkout.session.completed": ("session", {}, "completed"),
    "checkout.session.async_payment_succeeded": ("session", {}, "completed"),
    "checkout.session.async_payment_failed": ("session", {"payment_status": "unpaid"}, "failed"),
    "checkout.session.expired": ("session", {"status": "expired", "payment_status": "unpaid"}, "expired"),
    "payment_intent.succeeded": ("intent", {}, "completed"),
    "payment_intent.processing": ("intent", {"status": "processing"}, "processing"),
    "payment_intent.canceled": ("intent", {"status": "canceled"}, "cancelled"),
    "payment_intent.payment_failed": ("intent", {"status": "requires_payment_method"}, IGNORED),
    "payment_intent.requires_action": ("intent", {"status": "requires_action"}, IGNORED),
    "payment_intent.created": ("intent", {"status": "requires_payment_method"}, IGNORED),
    "payment_intent.amount_capturable_updated": ("intent", {"status": "requires_capture"}, IGNORED),
    "payment_intent.partially_funded": ("intent", {"status": "requires_action"}, IGNORED),
    "charge.succeeded": ("charge", {}, IGNORED),
    "charge.pending": ("charge", {"status": "pending"}, IGNORED),
    "charge.failed": ("charge", {"status": "failed"}, IGNORED),
    "charge.captured": ("charge", {}, IGNORED),
    "charge.expired": ("charge", {"status": "failed"}, IGNORED),
    "charge.updated": ("charge", {}, IGNORED),
    "charge.refunded": ("charge", {}, REFUNDS),
    "charge.refund.updated": ("refund", {}, REFUNDS),
    "refund.created": ("refund", {}, REFUNDS),
    "refund.updated": ("refund", {}, REFUNDS),
    "refund.failed": ("refund", {}, REFUNDS),
    "charge.dispute.created": ("dispute", {}, DISPUTE),
    "charge.dispute.updated": ("dispute", {"status": "under_review"}, DISPUTE),
    "charge.dispute.closed": ("dispute", {"status": "lost"}, DISPUTE),
    "charge.dispute.funds_withdrawn": ("dispute", {}, DISPUTE),
    "charge.dispute.funds_reinstated": ("dispute", {"status": "won"}, DISPUTE),
    "radar.early_fraud_warning.created": ("charge", {"object": "radar.early_fraud_warning"}, IGNORED),
    "review.opened": ("charge", {"object": "review"}, IGNORED),
    "review.closed": ("charge", {"object": "review"}, IGNORED),
}
# families of which every member must have a meaning above; Stripe's own list of names says what the members are
FAMILIES = (
    "checkout.session.",
    "payment_intent.",
    "charge.",
    "refund.",
    "review.",
    "radar.early_fraud_warning.created",
)
OFFICIAL_NAMES = Path(official.__file__).parent / "params" / "_webhook_endpoint_create_params.py"


@dataclass(frozen=True)
class Purchase:
    """A payment of 25.00 USD, of which 5.00 were given back and which was disputed."""

    reference: str
    session: Json
    intent: Json
    charge: Json
    refund: Json
    dispute: Json


@pytest.fixture
def purchase(stripe: StripeSimulator, bench: Bench) -> Purchase:
    attempt = new_attempt()
    session = stripe.objects[bench.open_page(attempt).provider_session_id]
    stripe.pay(session["id"])
    intent = stripe.objects[session["payment_intent"]]
    refund = stripe.refund(intent["id"], 500)[0]["data"]["object"]
    dispute = stripe.dispute(intent["id"])[0]["data"]["object"]
    return Purchase(str(attempt.reference), session, intent, stripe.objects[intent["latest_charge"]], refund, dispute)


def test_every_event_type_of_stripes_about_payments_has_a_meaning_here() -> None:
    names = {name for name in OFFICIAL_NAMES.read_text().split('"') if name.startswith(FAMILIES)}
    assert len(names) > 30
    assert sorted(names) == sorted(MEANING)


@pytest.mark.parametrize("kind", MEANING)
def test_an_event_means_what_the_table_says(
    kind: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    about, state, meaning = MEANING[kind]
    event = stripe.event(kind, getattr(purchase, about) | state)
    notification = bench.read(event)

    assert (notification.event.id, notification.event.type) == (event["id"], kind)
    assert notification.refused is None
    if meaning == IGNORED:
        assert notification.outcome is None
        assert notification.ignored
        return
    outcome = notification.outcome
    assert outcome is not None
    assert notification.ignored == ""
    assert (outcome.provider, outcome.source) == ("stripe", "webhook")
    assert outcome.provider_payment_id == purchase.intent["id"]
    assert outcome.status == (None if meaning in (REFUNDS, DISPUTE) else meaning)
    assert {said.kind for said in outcome.refunds} == {REFUNDS: {"refund"}, DISPUTE: {"dispute"}}.get(meaning, set())
    if outcome.status == "completed":
        assert (outcome.amount, outcome.currency) == (2500, "USD")
    # refunds and disputes carry metadata of their own: the payment is asked whose it is
    assert notification.ours
    assert outcome.reference == purchase.reference


@pytest.mark.parametrize("kind", ["refund.created", "charge.dispute.created"])
def test_a_refund_or_dispute_of_a_payment_without_our_reference_may_be_somebody_elses(
    kind: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    stripe.objects[purchase.intent["id"]]["metadata"] = {}
    about, state, _ = MEANING[kind]
    notification = bench.read(stripe.event(kind, getattr(purchase, about) | state))
    assert notification.outcome is not None
    assert (notification.ours, notification.outcome.reference) == (False, None)
    assert notification.outcome.provider_payment_id == purchase.intent["id"]


def test_an_event_type_that_nobody_knows_is_ignored(stripe: StripeSimulator, bench: Bench) -> None:
    assert bench.read(stripe.event("customer.created", {"id": "cus_1"})).ignored


def test_a_completed_page_with_a_delayed_method_is_processing(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt())
    statuses = [
        read.outcome.status if (read := bench.read(e)).outcome else None
        for e in stripe.pay_later(page.provider_session_id)
    ]
    assert statuses == [None, "processing", "processing"]


def test_where_nothing_was_due_the_page_itself_is_the_payment(
    stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    free = purchase.session | {"payment_status": "no_payment_required", "payment_intent": None, "amount_total": 0}
    outcome = bench.read(stripe.event("checkout.session.completed", free)).outcome
    assert outcome is not None
    assert (outcome.status, outcome.amount, outcome.provider_payment_id) == ("completed", 0, free["id"])


def test_a_page_that_nobody_paid_has_no_payment_id(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt())
    (event,) = stripe.expire(page.provider_session_id)
    outcome = bench.read(event).outcome
    assert outcome is not None
    assert (outcome.status, outcome.provider_payment_id) == ("expired", None)


@pytest.mark.parametrize(
    ("reason", "status"),
    [(None, "cancelled"), ("expired", "expired"), ("automatic", "expired"), ("abandoned", "cancelled"),
     ("duplicate", "cancelled"), ("failed_invoice", "cancelled"), ("fraudulent", "cancelled"),
     ("requested_by_customer", "cancelled"), ("void_invoice", "cancelled")],
)  # fmt: skip
def test_a_cancelled_payment_tells_why(
    reason: str | None, status: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    cancelled = purchase.intent | {"status": "canceled", "cancellation_reason": reason}
    outcome = bench.read(stripe.event("payment_intent.canceled", cancelled)).outcome
    assert outcome is not None
    assert outcome.status == status


@pytest.mark.parametrize(
    ("status", "known_as"),
    [("warning_needs_response", "pending"), ("warning_under_review", "pending"), ("warning_closed", "failed"),
     ("needs_response", "pending"), ("under_review", "pending"), ("appeal_needs_response", "pending"),
     ("appeal_under_review", "pending"), ("won", "failed"), ("lost", "succeeded"), ("prevented", "failed")],
)  # fmt: skip
def test_a_dispute_is_money_taken_back_until_it_ends_well_whatever_the_event_said(
    status: str, known_as: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    stripe.objects[purchase.dispute["id"]].update(status=status)
    for said in ("needs_response", "won", "lost"):
        outcome = bench.read(stripe.event("charge.dispute.updated", purchase.dispute | {"status": said})).outcome
        assert outcome is not None
        (dispute,) = outcome.refunds
        assert (dispute.kind, dispute.status, dispute.amount) == ("dispute", known_as, 2500)
        assert dispute.provider_refund_id == purchase.dispute["id"]


@pytest.mark.parametrize(
    ("said", "ours"),
    [("succeeded", "succeeded"), ("failed", "failed"), ("canceled", "failed"), ("pending", "pending"),
     ("requires_action", "pending"), (None, "pending")],
)  # fmt: skip
def test_all_refunds_of_the_payment_are_read_again_with_their_state_now(
    said: str | None, ours: RefundStatus, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    first = purchase.refund["id"]
    second, refunded = stripe.refund(purchase.intent["id"], 700)
    stripe.objects[second["data"]["object"]["id"]]["status"] = said
    outcome = bench.read(refunded).outcome
    assert outcome is not None
    assert outcome.refunds == (
        Refund(provider_refund_id=first, amount=500, status="succeeded"),
        Refund(provider_refund_id=second["data"]["object"]["id"], amount=700, status=ours),
    )


def test_a_refund_that_the_bank_sends_back_is_reported_as_failed(
    stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    for event in stripe.fail_refund(purchase.refund["id"]):
        outcome = bench.read(event).outcome
        assert outcome is not None
        assert [refund.status for refund in outcome.refunds] == ["failed"]


def test_more_refunds_than_one_list_holds_are_all_read(
    stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    for _ in range(203):
        event = stripe.refund(purchase.intent["id"], 1)[1]
    outcome = bench.read(event).outcome
    assert outcome is not None
    assert len({refund.provider_refund_id for refund in outcome.refunds}) == 204


def test_a_refund_is_counted_in_our_minor_units(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt(amount=50, currency="ISK"))
    stripe.pay(page.provider_session_id)
    event = stripe.refund(stripe.objects[page.provider_session_id]["payment_intent"], 2_000)[0]
    outcome = bench.read(event).outcome
    assert outcome is not None
    assert [refund.amount for refund in outcome.refunds] == [20]


def test_refunds_that_cannot_be_read_now_ask_stripe_to_send_the_event_again(
    stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = stripe.event("charge.refunded", purchase.charge)
    for fault in (
        Fault(status=500),
        Fault(status=200, body=b"{}"),
        Fault(status=200, body=b'{"data": [{}], "has_more": false}'),
    ):
        stripe.faults.extend([fault] * 3)
        with pytest.raises(ProviderUnavailable):
            bench.read(event)
        stripe.faults.clear()


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("checkout.session.completed", "session"),
        ("checkout.session.expired", "session"),
        ("payment_intent.succeeded", "intent"),
        ("payment_intent.canceled", "intent"),
    ],
)
def test_what_others_sell_on_the_same_account_is_ignored(
    kind: str, about: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    for metadata in ({}, None, {"order": "4711"}, {REFERENCE: ""}):
        notification = bench.read(stripe.event(kind, getattr(purchase, about) | {"metadata": metadata}))
        assert notification.outcome is None
        assert "pgcheckout did not" in notification.ignored


def test_a_refund_or_dispute_without_a_payment_intent_is_not_ours(
    stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    for kind, subject in (("charge.refunded", purchase.charge), ("charge.dispute.created", purchase.dispute)):
        assert bench.read(stripe.event(kind, subject | {"payment_intent": None})).ignored


@pytest.mark.parametrize("livemode", [False, True])
def test_an_event_of_the_other_mode_is_refused_and_kept(livemode: bool) -> None:
    with StripeSimulator(livemode=livemode) as account, Bench(account, account.url) as bench:
        session_id = bench.open_page(new_attempt()).provider_session_id
        event = account.pay(session_id)[-1]
        assert bench.read(event).refused is None
        notification = bench.read(event | {"livemode": not livemode})
        assert isinstance(notification.refused, WrongMode)
        assert notification.outcome is None
        assert notification.event.id == event["id"]


def test_an_event_that_calls_for_nothing_is_ignored_whatever_its_mode(stripe: StripeSimulator, bench: Bench) -> None:
    person = {"id": "cus_1", "email": "jane@example.test", "phone": "1", "address": {"city": "Paris"}}
    notification = bench.read(stripe.event("customer.updated", person) | {"livemode": not stripe.livemode})
    assert notification.refused is None
    assert notification.ignored
    assert "jane@example.test" not in str(notification.event.payload)


@pytest.mark.parametrize("livemode", [None, "false", 0, []])
def test_a_mode_that_is_not_plain_is_not_trusted(
    livemode: Any, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = stripe.event("checkout.session.completed", purchase.session) | {"livemode": livemode}
    assert isinstance(bench.read(event).refused, WrongMode)


def test_a_buyer_who_sees_another_currency_pays_the_amount_that_we_asked(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt())
    shown = {"presentment_amount": 2310, "presentment_currency": "eur"}
    _, intent, session = (bench.read(event) for event in stripe.pay(page.provider_session_id, presentment=shown))
    assert intent.outcome is None
    assert intent.ignored
    assert session.outcome is not None
    assert (session.outcome.amount, session.outcome.currency) == (2500, "USD")


def test_every_path_names_the_same_money_by_the_same_id(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt(amount=70, currency="ISK"))
    outcomes = [bench.read(event).outcome for event in stripe.pay(page.provider_session_id)[1:]]
    outcomes.append(bench.ask(page.provider_session_id, "verify"))
    outcomes.append(bench.ask(page.provider_session_id, "reconcile"))
    said = {(o.status, o.provider_payment_id, o.amount, o.currency, o.reference) for o in outcomes if o is not None}
    assert len(outcomes) == 4
    assert len(said) == 1
    assert next(iter(said))[1] == stripe.objects[page.provider_session_id]["payment_intent"]


def test_secrets_and_personal_data_are_not_kept(stripe: StripeSimulator, bench: Bench, purchase: Purchase) -> None:
    person = {"name": "Jenny Rosen", "email": "jenny@rosen.test"}
    personal = {
        "client_secret": "pi_secret_x", "customer_details": person, "billing_details": person, "shipping": person,
        "customer_email": "jenny@rosen.test", "receipt_email": "jenny@rosen.test", "collected_information": person,
        "payment_method_details": {"card": {"last4": "4242"}}, "custom_fields": [person], "evidence": person,
        "last_payment_error": {"payment_method": {"billing_details": person}}, "url": "https://checkout.stripe.com/pay",
        "next_action": {"redirect": "https://hooks.stripe.com/x"},
    }  # fmt: skip
    event = stripe.event("checkout.session.completed", purchase.session | personal)
    event["data"]["previous_attributes"] = {"deep": [{"billing_details": person}]}
    kept = bench.read(event).event.payload
    text = json.dumps(kept)
    for secret in ("pi_secret_x", "Jenny", "jenny", "4242", "checkout.stripe.com", "hooks.stripe.com"):
        assert secret not in text
    assert kept["data"]["object"]["client_secret"] == "[removed]"
    assert kept["data"]["object"]["amount_total"] == 2500
    assert kept["data"]["object"]["metadata"] == {REFERENCE: purchase.reference}


def test_a_payload_with_what_postgres_cannot_keep_is_kept_without_it(
    stripe: StripeSimulator, bench: Bench, purchase: Purchase, db: Database
) -> None:
    event = stripe.event("checkout.session.completed", purchase.session | {"a\0b": "c\0d", "e": "\ud800", "f": 1.5})
    notification = bench.read(event)
    assert notification.outcome is not None
    assert db.value("select %s::jsonb -> 'data' -> 'object' ->> 'f'", Jsonb(notification.event.payload)) == "1.5"


def at(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The document with one place changed."""
    changed = copy.deepcopy(document)
    node = changed
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return changed


def without(document: Any, path: tuple[str | int, ...]) -> Any:
    changed = copy.deepcopy(document)
    node = changed
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    return changed


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"[]", b"[[1]]", b"1", b'"event"', b"true", b"{}", b"{", b'{"id": "evt_1"}',
        b"\xff\xfe\xfd", b'{"id": "evt_\xff"}', b"NaN", b'{"id": NaN}', b"[" * 100_000, b'{"a":' * 100_000,
        b'{"id": ' + b"9" * 5_000 + b"}", b'{"a":' * 450 + b"1" + b"}" * 450,
        b"[" * 900 + b"]" * 900, "{}".encode("utf-16"), b"\xef\xbb\xbf{}",
        b'{"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.error", "livemode": false}',
    ],
    ids=lambda body: ascii(body[:24]),
)  # fmt: skip
def test_a_body_that_is_no_event_is_an_invalid_request(body: bytes, bench: Bench) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bench.read_body(body)
    assert refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    "path", [("id",), ("type",), ("livemode",), ("created",), ("data",), ("data", "object")], ids=str
)
def test_an_event_without_a_needed_field_is_an_invalid_request(
    path: tuple[str, ...], stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = without(stripe.event("checkout.session.completed", purchase.session), path)
    with pytest.raises(InvalidRequest):
        bench.read(event)


@pytest.mark.parametrize("name", ["id", "status", "payment_status", "amount_total", "currency"])
def test_a_session_without_a_needed_field_is_an_invalid_request(
    name: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = stripe.event("checkout.session.completed", purchase.session)
    with pytest.raises(InvalidRequest):
        bench.read(without(event, ("data", "object", name)))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("id",), 5), (("id",), ""), (("id",), "e" * 300), (("type",), ["x"]), (("created",), "now"),
     (("created",), 10**30), (("created",), -5), (("created",), 1e300), (("created",), True), (("data",), []),
     (("data", "object"), "cs_1"),
     (("data", "object", "amount_total"), "2500"), (("data", "object", "amount_total"), 25.0),
     (("data", "object", "amount_total"), None), (("data", "object", "amount_total"), True),
     (("data", "object", "amount_total"), -1), (("data", "object", "amount_total"), 10**40),
     (("data", "object", "currency"), None), (("data", "object", "currency"), 840),
     (("data", "object", "metadata"), "x"),
     (("data", "object", "metadata"), {REFERENCE: {"id": 5}}), (("data", "object", "payment_intent"), 5),
     (("data", "object", "payment_intent"), {}), (("data", "object", "customer"), [1])],
    ids=str,
)  # fmt: skip
def test_an_event_of_a_wrong_shape_is_an_invalid_request(
    path: tuple[str, ...], value: Any, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = stripe.event("checkout.session.completed", purchase.session)
    with pytest.raises(InvalidRequest):
        bench.read(at(event, path, value))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_an_invalid_request(
    number: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = stripe.event("charge.updated", purchase.charge | {"amount": "PLACE"})
    with pytest.raises(InvalidRequest):
        bench.read_body(json.dumps(event).replace('"PLACE"', number).encode())


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(10**60), st.just("x" * 70_000)
)
documents = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def paths(document: Any) -> list[tuple[str | int, ...]]:
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path for name, value in inner for path in ((name,), *((name, *below) for below in paths(value)))]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(sorted(MEANING)))
def test_a_distorted_event_is_read_or_refused_but_never_a_surprise(
    data: st.DataObject, kind: str, stripe: StripeSimulator, bench: Bench, purchase: Purchase
) -> None:
    event = stripe.event(kind, getattr(purchase, MEANING[kind][0]))
    for _ in range(data.draw(st.integers(1, 3))):
        if places := paths(event):
            place = data.draw(st.sampled_from(places))
            event = at(event, place, data.draw(documents)) if data.draw(st.booleans()) else without(event, place)
    try:
        notification = bench.read_body(json.dumps(event).encode())
    except (InvalidRequest, ProviderError):
        return
    check_is_plain(notification)


def check_is_plain(notification: Notification) -> None:
    """What was read can be written down, and is of the types that it declares."""
    json.dumps(notification.event.to_json(), allow_nan=False, ensure_ascii=False).encode()
    if (outcome := notification.outcome) is None:
        return
    assert type(outcome.amount) in (int, type(None))
    for value in (outcome.reference, outcome.provider_payment_id, outcome.provider_session_id, outcome.currency):
        assert type(value) in (str, type(None))
        assert value is None or 0 < len(value) <= 255
    json.dumps(outcome.to_json(), allow_nan=False, ensure_ascii=False).encode()


def test_nothing_is_read_before_the_signature_is_checked(bench: Bench) -> None:
    for headers in ({}, {"stripe-signature": ""}, {"stripe-signature": sign(b"{}", "whsec_other")}):
        with pytest.raises(SignatureInvalid):
            bench.run(bench.adapter.read_event(headers, b"{"))


def test_the_official_library_reads_what_the_simulator_sends(stripe: StripeSimulator, purchase: Purchase) -> None:
    event = stripe.event("checkout.session.completed", purchase.session)
    headers, body = stripe.sign(event)
    read = official.Webhook.construct_event(body, headers["stripe-signature"], stripe.webhook_secret)
    assert (read.id, read.type, read.data.object["id"]) == (event["id"], event["type"], purchase.session["id"])
