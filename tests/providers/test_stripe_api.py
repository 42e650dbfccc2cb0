"""Stripe's API as the adapter uses it: pages, the truth about them, and everything that can go wrong on the way."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import stamina

from bridge.errors import ProviderError, ProviderRefused, ProviderUnavailable
from bridge.providers.stripe import REFERENCE
from bridge.simulators.stripe import Fault, StripeSimulator
from bridge.simulators.stripe_world import API_VERSION
from bridge.values import Refund
from tests.providers.stripe_bench import Bench, new_attempt

Deed = Callable[[Bench, str], object]
EVERY_CALL: dict[str, Deed] = {
    "open_page": lambda bench, _: bench.open_page(new_attempt()),
    "close_page": lambda bench, page: bench.close_page(page),
    "ask": lambda bench, page: bench.ask(page),
}
every_call = pytest.mark.parametrize("deed", EVERY_CALL.values(), ids=EVERY_CALL)


def keys(stripe: StripeSimulator) -> list[str | None]:
    return [request.headers.get("idempotency-key") for request in stripe.received]


def pages(stripe: StripeSimulator, reference: str | None) -> list[str]:
    sessions = [thing for thing in stripe.objects.values() if thing["object"] == "checkout.session"]
    return [session["id"] for session in sessions if session["client_reference_id"] == reference]


# opening a page


def test_a_page_is_opened_with_exactly_the_documented_form(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    page = bench.open_page(attempt)
    (request,) = stripe.received
    assert (request.method, request.path) == ("POST", "/v1/checkout/sessions")
    assert attempt.expires_at is not None
    assert request.values == {
        "mode": "payment",
        "client_reference_id": attempt.reference,
        f"metadata[{REFERENCE}]": attempt.reference,
        f"payment_intent_data[metadata][{REFERENCE}]": attempt.reference,
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "2500",
        "line_items[0][price_data][product_data][name]": "100 credits & more",
        "success_url": "https://bridge.test/return/stripe?page={CHECKOUT_SESSION_ID}",
        "cancel_url": f"https://bridge.test/return/stripe?reference={attempt.reference}",
        "expires_at": str(int(attempt.expires_at.timestamp())),
        "customer_email": "buyer@example.test",
    }
    assert request.headers["authorization"] == f"Bearer {stripe.secret_key}"
    assert request.headers["stripe-version"] == API_VERSION
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert str(attempt.reference) in request.headers["idempotency-key"]
    session = stripe.objects[page.provider_session_id]
    assert page.url == session["url"]
    assert page.expires_at == attempt.expires_at.replace(microsecond=0)
    assert session["metadata"] == {REFERENCE: attempt.reference}


def test_nothing_of_the_user_but_the_email_reaches_stripe(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt(email=None)
    bench.open_page(attempt)
    said = str(stripe.received[0].values)
    assert "customer_email" not in said
    assert str(attempt.user_id) not in said
    assert str(attempt.session_id) not in said


@pytest.mark.parametrize("minutes", [-60, 0, 10, 30, 31, 60, 23 * 60, 24 * 60, 48 * 60, 60 * 24 * 365])
def test_a_page_lives_as_long_as_its_attempt_within_what_stripe_takes(
    minutes: int, stripe: StripeSimulator, bench: Bench
) -> None:
    now = datetime.now(UTC)
    attempt = new_attempt(created_at=now, expires_at=now + timedelta(minutes=minutes))
    page = bench.open_page(attempt)
    expected = now + min(max(timedelta(minutes=minutes), timedelta(minutes=31)), timedelta(hours=23, minutes=55))
    assert page.expires_at == expected.replace(microsecond=0)
    # a second try, some time later, asks for the same moment: else its key would not fit any more
    assert bench.open_page(attempt) == page


def test_asking_again_for_the_same_attempt_gives_the_same_page(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    assert bench.open_page(attempt) == bench.open_page(attempt)
    assert len(pages(stripe, attempt.reference)) == 1


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=True)], ids=["lost", "cut"])
def test_a_page_whose_answer_was_lost_is_found_again(fault: Fault, stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    stripe.faults.extend([fault, fault])
    page = bench.open_page(attempt)
    assert pages(stripe, attempt.reference) == [page.provider_session_id]
    assert len(set(keys(stripe))) == 1
    assert len(stripe.received) == 3


def test_a_page_whose_answer_was_lost_for_good_is_found_by_the_next_call(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    stripe.faults.extend([Fault(lost=True)] * 3)
    with pytest.raises(ProviderUnavailable):
        bench.open_page(attempt)
    assert [bench.open_page(attempt).provider_session_id] == pages(stripe, attempt.reference)


def test_two_calls_at_once_get_the_same_page(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    # the second meets the first under way (409), twice, and then its answer
    stripe.faults.append(Fault(latency=0.3))
    with stamina.set_testing(False):
        one, other = bench.open_twice_at_once(attempt)
    assert one == other
    assert pages(stripe, attempt.reference) == [one.provider_session_id]
    assert len(stripe.received) > 2


def test_another_attempt_gets_another_page(stripe: StripeSimulator, bench: Bench) -> None:
    assert bench.open_page(new_attempt()) != bench.open_page(new_attempt())


def test_the_key_of_one_attempt_never_fits_another_amount(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    bench.open_page(attempt)
    with pytest.raises(ProviderRefused, match="idempotency_error"):
        bench.open_page(new_attempt(reference=attempt.reference, amount=1))


def test_an_amount_that_stripe_cannot_take_is_refused_before_it_is_sent(stripe: StripeSimulator, bench: Bench) -> None:
    with pytest.raises(ProviderRefused):
        bench.open_page(new_attempt(amount=100_000_000))
    assert stripe.received == []


@pytest.mark.parametrize("missing", ["reference", "created_at", "expires_at"])
def test_a_page_is_never_opened_for_an_attempt_that_is_not_stored(
    missing: str, stripe: StripeSimulator, bench: Bench
) -> None:
    with pytest.raises(ValueError, match="stored first"):
        bench.open_page(new_attempt(**{missing: None}))
    assert stripe.received == []


# when Stripe is in trouble


@every_call
@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_out_under_one_key(
    status: int, deed: Deed, stripe: StripeSimulator, bench: Bench
) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.received.clear()
    stripe.faults.extend([Fault(status=status)] * 2)
    deed(bench, page)
    assert len(stripe.received) == 3
    assert len(set(keys(stripe))) == 1


@every_call
@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_trouble_that_stays_is_unavailable(status: int, deed: Deed, stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.received.clear()
    stripe.faults.extend([Fault(status=status)] * 9)
    with pytest.raises(ProviderUnavailable, match=f"HTTP {status}"):
        deed(bench, page)
    assert len(stripe.received) == 3


def test_real_retries_wait_between_the_tries(stripe: StripeSimulator, bench: Bench) -> None:
    stripe.faults.extend([Fault(status=503), Fault(lost=True)])
    with stamina.set_testing(False):
        page = bench.open_page(new_attempt())
    assert page.provider_session_id in stripe.objects
    assert len(stripe.received) == 3


@pytest.mark.parametrize("status", [429, 500])
def test_stripe_can_forbid_to_repeat_at_once(status: int, stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.received.clear()
    stripe.faults.append(Fault(status=status, headers={"Stripe-Should-Retry": "false"}))
    with pytest.raises(ProviderUnavailable):
        bench.ask(page)
    assert len(stripe.received) == 1


def test_stripe_can_ask_to_repeat_what_looks_final(stripe: StripeSimulator, bench: Bench) -> None:
    stripe.faults.append(Fault(status=400, headers={"Stripe-Should-Retry": "true"}))
    bench.open_page(new_attempt())
    assert len(stripe.received) == 2


def test_a_stored_failure_ends_the_attempt_because_its_key_would_bring_it_back(
    stripe: StripeSimulator, bench: Bench
) -> None:
    attempt = new_attempt()
    stripe.faults.append(Fault(status=500, stored=True))
    for _ in range(2):
        with pytest.raises(ProviderRefused, match="HTTP 500"):
            bench.open_page(attempt)
    assert bench.open_page(new_attempt()).provider_session_id in stripe.objects


def test_a_stored_failure_that_stripe_announces_ends_the_attempt_at_once(stripe: StripeSimulator, bench: Bench) -> None:
    stripe.faults.append(Fault(status=500, stored=True, headers={"Stripe-Should-Retry": "false"}))
    with pytest.raises(ProviderRefused, match="HTTP 500"):
        bench.open_page(new_attempt())
    assert len(stripe.received) == 1


def test_a_rate_limit_does_not_end_the_attempt(stripe: StripeSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    stripe.faults.append(Fault(status=429, headers={"Stripe-Should-Retry": "false"}))
    with pytest.raises(ProviderUnavailable):
        bench.open_page(attempt)
    assert bench.open_page(attempt).provider_session_id in stripe.objects


@every_call
def test_a_stripe_that_is_slow_is_unavailable(deed: Deed, stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.faults.extend([Fault(latency=0.5)] * 3)
    # a repeated request can meet the first one, which is still under way
    late = r"ReadTimeout|HTTP 409"
    with Bench(stripe, stripe.url, timeout=0.1) as hasty, pytest.raises(ProviderUnavailable, match=late):
        deed(hasty, page)


@every_call
def test_a_stripe_that_cannot_be_reached_is_unavailable(deed: Deed, stripe: StripeSimulator) -> None:
    with Bench(stripe, "http://127.0.0.1:1") as bench, pytest.raises(ProviderUnavailable, match="ConnectError"):
        deed(bench, "cs_1")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, body=b""),
        Fault(status=200, body=b"<html>hello</html>"),
        Fault(status=200, body=b"[]"),
        Fault(status=200, body=b'"cs_1"'),
        Fault(status=200, body=b"{}"),
        Fault(status=200, body=b'{"id": "cs_1"}'),
        Fault(status=200, body=b'{"id": "cs_1", "url": null, "status": "open", "payment_status": "unpaid"}'),
        Fault(status=200, body=b'{"id": 5, "url": "https://x", "status": "complete", "currency": "usd"}'),
        Fault(status=200, body=b'{"payment_intent": "pi_1", "id": "cs_1", "url": "https://x", "expires_at": "soon"}'),
        Fault(status=200, body=b"\xff\xfe"),
        Fault(status=200, body=b"[" * 100_000),
        Fault(status=200, body=b"{}", headers={"Content-Encoding": "gzip"}),
        Fault(status=502, body=b"<html><h1>502 Bad Gateway</h1></html>", headers={"Content-Type": "text/html"}),
        Fault(lost=True),
        Fault(cut=True),
    ],
    ids=lambda fault: ascii(fault.body[:40]),
)
@pytest.mark.parametrize("deed", [EVERY_CALL["open_page"], EVERY_CALL["ask"]], ids=["open_page", "ask"])
def test_an_answer_that_makes_no_sense_is_unavailable(
    fault: Fault, deed: Deed, stripe: StripeSimulator, bench: Bench
) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.faults.extend([fault] * 3)
    with pytest.raises(ProviderUnavailable):
        deed(bench, page)


# when Stripe says no


def test_a_refusal_carries_stripes_code_and_request_id(stripe: StripeSimulator, bench: Bench) -> None:
    with pytest.raises(ProviderRefused, match=r"HTTP 400.*parameter_invalid.*customer_email") as refused:
        bench.open_page(new_attempt(email="nobody"))
    assert "Stripe request req_" in refused.value.hint
    assert len(stripe.received) == 1


@every_call
def test_a_wrong_key_names_the_setting(deed: Deed, stripe: StripeSimulator) -> None:
    with (
        Bench(stripe, stripe.url, stripe_secret_key="sk_test_wrong") as bench,
        pytest.raises(ProviderRefused, match=r"HTTP 401, request req_") as refused,
    ):
        deed(bench, "cs_1")
    assert "PGCHECKOUT_STRIPE_SECRET_KEY" in refused.value.hint


def test_a_key_without_the_right_names_the_setting(stripe: StripeSimulator, bench: Bench) -> None:
    stripe.faults.append(Fault(status=403))
    with pytest.raises(ProviderRefused) as refused:
        bench.open_page(new_attempt())
    assert "PGCHECKOUT_STRIPE_SECRET_KEY" in refused.value.hint


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"no"', b"{}", b'{"error": "no"}', b'{"error": null}', b"\xff", b"[" * 100_000]
)
@pytest.mark.parametrize("status", [302, 400, 402, 404])
def test_a_refusal_without_an_explanation_is_still_a_refusal(
    status: int, body: bytes, stripe: StripeSimulator, bench: Bench
) -> None:
    stripe.faults.append(Fault(status=status, body=body))
    with pytest.raises(ProviderRefused, match=rf"HTTP {status}.*no explanation"):
        bench.open_page(new_attempt())


@pytest.mark.parametrize(
    "fault",
    [Fault(status=401), Fault(status=400), Fault(status=503), Fault(lost=True), Fault(status=200, body=b"{}")],
    ids=["401", "400", "503", "lost", "nonsense"],
)
def test_no_secret_reaches_an_exception_or_the_logs(
    fault: Fault, stripe: StripeSimulator, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    stripe.faults.extend([fault] * 3)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")  # which the bridge silences
    with pytest.raises(ProviderError) as caught:
        bench.open_page(new_attempt())
    records = [str(record.__dict__) for record in caplog.records]
    assert records
    said = "\n".join([*records, repr(caught.value), caught.value.hint, str(caught.getrepr(style="long"))])
    assert stripe.secret_key not in said
    assert stripe.webhook_secret not in said


# closing a page


def test_an_open_page_is_closed(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    bench.close_page(page)
    assert stripe.objects[page]["status"] == "expired"
    with pytest.raises(ValueError, match="nobody can pay"):
        stripe.pay(page)


def test_a_page_that_is_paid_or_closed_is_left_alone(stripe: StripeSimulator, bench: Bench) -> None:
    paid = bench.open_page(new_attempt()).provider_session_id
    stripe.pay(paid)
    closed = bench.open_page(new_attempt()).provider_session_id
    bench.close_page(closed)
    for page, status in ((paid, "complete"), (closed, "expired")):
        bench.close_page(page)
        assert stripe.objects[page]["status"] == status


def test_a_close_whose_answer_was_lost_is_done_all_the_same(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.faults.append(Fault(lost=True))
    bench.close_page(page)
    assert stripe.objects[page]["status"] == "expired"


def test_a_refusal_to_close_an_open_page_is_reported(stripe: StripeSimulator, bench: Bench) -> None:
    page = bench.open_page(new_attempt()).provider_session_id
    stripe.faults.append(Fault(status=400))
    with pytest.raises(ProviderRefused):
        bench.close_page(page)


def test_a_page_that_nobody_knows_cannot_be_closed(stripe: StripeSimulator, bench: Bench) -> None:
    with pytest.raises(ProviderRefused, match="resource_missing"):
        bench.close_page("cs_unknown")


# asking for the truth


def opened(bench: Bench) -> str:
    return bench.open_page(new_attempt()).provider_session_id


@pytest.mark.parametrize(
    ("deeds", "status"),
    [
        ([], "pending"),
        (["pay"], "completed"),
        (["pay_later"], "processing"),
        (["pay_later", "settle"], "completed"),
        (["pay_later", "fail"], "failed"),
        (["expire"], "expired"),
    ],
    ids=lambda value: "-".join(value) or "untouched" if isinstance(value, list) else value,
)
def test_asking_tells_what_became_of_a_page(
    deeds: list[str], status: str, stripe: StripeSimulator, bench: Bench
) -> None:
    attempt = new_attempt()
    page = bench.open_page(attempt).provider_session_id
    for deed in deeds:
        getattr(stripe, deed)(page)
    stripe.received.clear()
    outcome = bench.ask(page, "reconcile")
    assert (outcome.provider, outcome.source, outcome.status) == ("stripe", "reconcile", status)
    assert (outcome.reference, outcome.provider_session_id) == (attempt.reference, page)
    assert (outcome.amount, outcome.currency) == (2500, "USD")
    assert outcome.provider_payment_id == stripe.objects[page]["payment_intent"]
    assert (outcome.refunds, outcome.disputed) == ((), False)
    assert len(stripe.received) == 1
    if status == "completed":
        assert outcome.paid_at is not None
        assert outcome.paid_at.tzinfo is not None


def test_an_attempt_without_a_page_is_pending_and_stripe_is_not_asked(stripe: StripeSimulator, bench: Bench) -> None:
    outcome = bench.ask(None)
    assert (outcome.status, outcome.provider_payment_id) == ("pending", None)
    assert outcome.reference
    assert stripe.received == []


def test_asking_tells_of_refunds(stripe: StripeSimulator, bench: Bench) -> None:
    page = opened(bench)
    stripe.pay(page)
    first = stripe.refund(stripe.objects[page]["payment_intent"], 100)[0]["data"]["object"]["id"]
    second = stripe.refund(stripe.objects[page]["payment_intent"], 2400, "pending")[0]["data"]["object"]["id"]
    outcome = bench.ask(page)
    assert outcome.status == "completed"
    assert outcome.refunds == (
        Refund(provider_refund_id=first, amount=100, status="succeeded"),
        Refund(provider_refund_id=second, amount=2400, status="pending"),
    )


@pytest.mark.parametrize(("end", "status"), [(None, "pending"), ("lost", "succeeded"), ("won", "failed")])
def test_asking_tells_how_a_dispute_stands(end: str | None, status: str, stripe: StripeSimulator, bench: Bench) -> None:
    page = opened(bench)
    stripe.pay(page)
    dispute = stripe.dispute(stripe.objects[page]["payment_intent"])[0]["data"]["object"]["id"]
    if end:
        stripe.close_dispute(dispute, end)
    outcome = bench.ask(page)
    assert outcome.status == "completed"
    assert [(said.provider_refund_id, said.kind, said.status) for said in outcome.refunds] == [
        (dispute, "dispute", status)
    ]


def test_a_buyer_who_saw_another_currency_paid_what_we_asked(stripe: StripeSimulator, bench: Bench) -> None:
    page = opened(bench)
    stripe.pay(page, presentment={"presentment_amount": 2310, "presentment_currency": "eur"})
    outcome = bench.ask(page)
    assert (outcome.amount, outcome.currency) == (2500, "USD")


def test_a_page_that_stripe_does_not_know_is_a_refusal(bench: Bench) -> None:
    with pytest.raises(ProviderRefused, match="resource_missing"):
        bench.ask("cs_unknown")


# coming back


@pytest.mark.parametrize(
    ("query", "page", "reference"),
    [("page=cs_1", "cs_1", None), ("reference=abc", None, "abc"), ("", None, None), ("other=1&page=", None, None)],
)
def test_a_buyer_comes_back_with_the_page_or_the_reference(
    query: str, page: str | None, reference: str | None, bench: Bench
) -> None:
    returned = bench.returned(query)
    assert (returned.provider_session_id, returned.reference) == (page, reference)


def test_what_the_buyer_typed_is_not_repeated_in_errors(stripe: StripeSimulator, bench: Bench) -> None:
    refused = {"type": "invalid_request_error", "code": "email_invalid", "param": "customer_email"}
    body = json.dumps({"error": refused | {"message": "Invalid email address: jane@private.test"}}).encode()
    stripe.faults.append(Fault(status=400, body=body))
    with pytest.raises(ProviderRefused) as caught:
        bench.open_page(new_attempt(email="jane@private.test"))
    assert "email_invalid" in caught.value.message
    assert "jane" not in caught.value.message + caught.value.hint


def test_another_address_on_the_same_attempt_is_another_request(stripe: StripeSimulator, bench: Bench) -> None:
    first, second = (bench.open_page(new_attempt(email=email)) for email in ("a@example.test", "b@example.test"))
    assert first.provider_session_id != second.provider_session_id
