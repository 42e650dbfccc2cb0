"""PayPal's API as the adapter uses it: pages, captures, the truth about them, and what can go wrong on the way."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import NotSupported, ProviderError, ProviderRefused, ProviderUnavailable
from bridge.providers.paypal import PayPal
from bridge.simulators.base import Fault, Json
from bridge.simulators.paypal import PayPalSimulator
from bridge.values import Attempt, Outcome, Page, Refund, RefundOrder
from tests.providers.bench import AdapterBench, new_attempt

Bench = AdapterBench[PayPal]
Deed = Callable[[Bench, Attempt], object]
EVERY_CALL: dict[str, Deed] = {
    "open_page": lambda bench, _: bench.open_page(new_attempt()),
    "ask": lambda bench, attempt: bench.ask_about(attempt),
    "refund": lambda bench, attempt: bench.refund(attempt, order_of(100)),
}
every_call = pytest.mark.parametrize("deed", EVERY_CALL.values(), ids=EVERY_CALL)
ORDERS = "/v2/checkout/orders"
# what the buyer can mend on the same page, and what ends the attempt
AGAIN = ("ORDER_NOT_APPROVED", "PAYER_ACTION_REQUIRED", "INSTRUMENT_DECLINED", "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING")
NEVER = (
    "PAYER_CANNOT_PAY", "PAYER_ACCOUNT_RESTRICTED", "PAYER_ACCOUNT_LOCKED_OR_CLOSED", "TRANSACTION_REFUSED",
    "COMPLIANCE_VIOLATION", "PAYEE_BLOCKED_TRANSACTION", "TRANSACTION_BLOCKED_BY_PAYEE",
    "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED", "TRANSACTION_LIMIT_EXCEEDED", "DUPLICATE_INVOICE_ID",
    "DECLINED_DUE_TO_RELATED_TXN",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PayPalSimulator]:
    with PayPalSimulator() as server:
        yield server


@pytest.fixture
def paypal(server: PayPalSimulator) -> PayPalSimulator:
    server.faults.clear()
    server.received.clear()
    server.captured.clear()
    server.next_refund = "COMPLETED"
    return server


@pytest.fixture(scope="module")
def bench(server: PayPalSimulator) -> Iterator[Bench]:
    with AdapterBench(PayPal, server.settings()) as bench:
        bench.run(bench.adapter._paypal._access())
        yield bench


@pytest.fixture
def fresh(paypal: PayPalSimulator) -> Iterator[Bench]:
    """An adapter that has no access token yet."""
    with AdapterBench(PayPal, paypal.settings()) as bench:
        yield bench


def opened(bench: Bench, **changes: Any) -> tuple[Attempt, Page]:
    attempt = new_attempt(provider="paypal", **changes)
    page = bench.open_page(attempt)
    return replace(attempt, provider_session_id=page.provider_session_id, checkout_url=page.url), page


def approved(paypal: PayPalSimulator, bench: Bench, **changes: Any) -> Attempt:
    attempt, page = opened(bench, **changes)
    paypal.approve(page.provider_session_id)
    paypal.received.clear()
    return attempt


def paid(paypal: PayPalSimulator, bench: Bench) -> Attempt:
    attempt = approved(paypal, bench)
    outcome = bench.ask_about(attempt)
    assert outcome.status == "completed"
    paypal.received.clear()
    return replace(attempt, status="completed", provider_payment_id=outcome.provider_payment_id)


def order_of(amount: int, key: str = "order-1", reason: str | None = None) -> RefundOrder:
    return RefundOrder(key=key, amount=amount, in_full=False, reason=reason)


def requests(paypal: PayPalSimulator) -> list[str]:
    return [f"{request.method} {request.path.rsplit('/', 1)[-1]}" for request in paypal.received]


def captures(paypal: PayPalSimulator) -> int:
    return requests(paypal).count("POST capture")


def error(status: int, *, issue: str = "", name: str = "UNPROCESSABLE_ENTITY", **more: Any) -> Fault:
    said: Json = {"name": name, "message": "jane@example.test", "debug_id": "f0a1b2", "details": [{"issue": issue}]}
    return Fault(status=status, body=json.dumps(said | more).encode())


# opening a page


def test_an_order_is_made_with_exactly_the_documented_body(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    (request,) = paypal.received
    back = f"https://bridge.test/return/paypal?reference={attempt.reference}"
    assert (request.method, request.path) == ("POST", ORDERS)
    assert json.loads(request.body) == {
        "intent": "CAPTURE",
        "purchase_units": [
            {
                "reference_id": attempt.reference,
                "custom_id": attempt.reference,
                "description": "100 credits & more",
                "amount": {"currency_code": "USD", "value": "25.00"},
            }
        ],
        "payment_source": {
            "paypal": {
                "experience_context": {
                    "return_url": back,
                    "cancel_url": back,
                    "user_action": "PAY_NOW",
                    "shipping_preference": "NO_SHIPPING",
                    "payment_method_preference": "IMMEDIATE_PAYMENT_REQUIRED",
                }
            }
        },
    }
    assert request.headers["authorization"] == f"Bearer {paypal.tokens[-1]}"
    assert str(attempt.reference) in request.headers["paypal-request-id"]
    assert page.url == f"https://www.sandbox.paypal.com/checkoutnow?token={page.provider_session_id}"
    assert paypal.orders[page.provider_session_id]["status"] == "PAYER_ACTION_REQUIRED"


def test_nothing_of_the_user_reaches_paypal(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt, _ = opened(bench)
    said = paypal.received[0].body.decode()
    for private in (attempt.user_id, attempt.session_id, attempt.email):
        assert str(private) not in said


@pytest.mark.parametrize(("minutes", "lives"), [(10, 10), (120, 120), (180, 180), (181, 180), (60 * 24 * 365, 180)])
def test_a_page_lives_as_long_as_its_attempt_and_three_hours_at_most(minutes: int, lives: int, bench: Bench) -> None:
    now = datetime.now(UTC)
    _, page = opened(bench, created_at=now, expires_at=now + timedelta(minutes=minutes))
    assert page.expires_at == now + timedelta(minutes=lives)


def test_the_older_link_to_the_page_is_taken_too(paypal: PayPalSimulator, bench: Bench) -> None:
    links = [{"rel": "self", "href": "https://x"}, {"rel": "approve", "href": "https://www.paypal.com/checkoutnow?x"}]
    paypal.faults.append(Fault(garbled=True, body=json.dumps({"id": "5O190127TN364715T", "links": links}).encode()))
    page = bench.open_page(new_attempt())
    assert (page.provider_session_id, page.url) == ("5O190127TN364715T", "https://www.paypal.com/checkoutnow?x")


def test_asking_again_for_the_same_attempt_gives_the_same_page(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    before = len(paypal.orders)
    assert bench.open_page(attempt) == bench.open_page(attempt)
    assert len(paypal.orders) == before + 1


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=True)], ids=["lost", "cut"])
def test_a_page_whose_answer_was_lost_is_found_again(fault: Fault, paypal: PayPalSimulator, bench: Bench) -> None:
    before = len(paypal.orders)
    paypal.faults.extend([fault, fault])
    bench.open_page(new_attempt())
    assert len(paypal.orders) == before + 1
    assert len({request.headers["paypal-request-id"] for request in paypal.received}) == 1
    assert len(paypal.received) == 3


def test_another_attempt_or_another_name_is_another_request(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    pages = [bench.open_page(one) for one in (attempt, replace(attempt, product_name="another"), new_attempt())]
    assert len({page.provider_session_id for page in pages}) == 3


def test_a_long_name_is_cut_to_what_paypal_takes(paypal: PayPalSimulator, bench: Bench) -> None:
    _, page = opened(bench, product_name="é" * 500)
    assert paypal.orders[page.provider_session_id]["purchase_units"][0]["description"] == "é" * 127


@pytest.mark.parametrize(("amount", "currency"), [(2550, "HUF"), (99, "TWD")])
def test_an_amount_that_paypal_cannot_take_is_refused_before_it_is_sent(
    amount: int, currency: str, paypal: PayPalSimulator, bench: Bench
) -> None:
    with pytest.raises(ProviderRefused, match=currency):
        bench.open_page(new_attempt(amount=amount, currency=currency))
    assert paypal.received == []


@pytest.mark.parametrize("missing", ["reference", "created_at", "expires_at"])
def test_a_page_is_never_opened_for_an_attempt_that_is_not_stored(missing: str, bench: Bench) -> None:
    with pytest.raises(ValueError, match="stored first"):
        bench.open_page(new_attempt(**{missing: None}))


def test_a_page_cannot_be_closed(bench: Bench) -> None:
    with pytest.raises(NotSupported):
        bench.close_page("5O190127TN364715T")


@pytest.mark.parametrize(
    ("environment", "api"),
    [("production", "https://api-m.paypal.com"), ("development", "https://api-m.sandbox.paypal.com")],
)
def test_the_api_follows_from_the_environment(environment: str, api: str, paypal: PayPalSimulator) -> None:
    with AdapterBench(PayPal, paypal.settings(), environment=environment, paypal_api_url=None) as bench:
        assert bench.adapter._paypal.api == api


# access tokens


def test_one_token_serves_many_requests_at_once(paypal: PayPalSimulator, fresh: Bench) -> None:
    async def three() -> list[Page]:
        return await asyncio.gather(*(fresh.adapter.open_page(new_attempt()) for _ in range(3)))

    fresh.run(three())
    assert requests(paypal).count("POST token") == 1
    assert requests(paypal).count("POST orders") == 3
    login = base64.b64encode(f"{paypal.client_id}:{paypal.client_secret}".encode()).decode()
    assert paypal.received[0].headers["authorization"] == f"Basic {login}"
    assert paypal.received[0].values == {"grant_type": "client_credentials"}


def test_a_token_that_paypal_forgot_is_replaced_and_the_request_repeated_under_its_key(
    paypal: PayPalSimulator, fresh: Bench
) -> None:
    fresh.open_page(new_attempt())
    paypal.received.clear()
    paypal.tokens.clear()
    fresh.open_page(new_attempt())
    assert requests(paypal) == ["POST orders", "POST token", "POST orders"]
    assert paypal.received[0].headers["paypal-request-id"] == paypal.received[2].headers["paypal-request-id"]


def test_several_that_find_the_token_forgotten_get_one_new_one(paypal: PayPalSimulator, fresh: Bench) -> None:
    fresh.open_page(new_attempt())
    paypal.received.clear()
    paypal.tokens.clear()

    async def three() -> None:
        await asyncio.gather(*(fresh.adapter.open_page(new_attempt()) for _ in range(3)))

    fresh.run(three())
    assert requests(paypal).count("POST token") == 1


def test_a_second_401_is_final(paypal: PayPalSimulator, bench: Bench) -> None:
    paypal.faults.extend([Fault(status=401), Fault(), Fault(status=401)])
    with pytest.raises(ProviderRefused, match="HTTP 401"):
        bench.open_page(new_attempt())
    assert requests(paypal) == ["POST orders", "POST token", "POST orders"]


@pytest.mark.parametrize(("expires_in", "tokens"), [(32_400, 1), (30, 2)])
def test_a_token_is_replaced_shortly_before_its_end(
    expires_in: int, tokens: int, paypal: PayPalSimulator, fresh: Bench
) -> None:
    paypal.tokens.append("A21-short")
    body = json.dumps({"access_token": "A21-short", "expires_in": expires_in}).encode()
    paypal.faults.append(Fault(garbled=True, body=body))
    fresh.open_page(new_attempt())
    fresh.open_page(new_attempt())
    assert requests(paypal).count("POST token") == tokens


def test_wrong_credentials_are_named_and_not_shown(paypal: PayPalSimulator) -> None:
    wrong = AdapterBench(PayPal, paypal.settings(), paypal_client_secret="EsecretE")
    with wrong as bench, pytest.raises(ProviderRefused, match="invalid_client") as refused:
        bench.open_page(new_attempt())
    assert "PGCHECKOUT_PAYPAL_CLIENT_SECRET" in refused.value.hint
    assert "EsecretE" not in f"{refused.value} {refused.value.hint}"


# when PayPal is in trouble


@every_call
@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_trouble_that_passes_is_waited_out_under_one_key(
    status: int, deed: Deed, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = paid(paypal, bench)
    paypal.faults.extend([Fault(status=status)] * 2)
    deed(bench, attempt)
    assert len(paypal.received) == 3
    assert len({request.headers.get("paypal-request-id") for request in paypal.received}) == 1


@every_call
@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_trouble_that_stays_is_unavailable(status: int, deed: Deed, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    paypal.faults.extend([Fault(status=status)] * 3)
    with pytest.raises(ProviderUnavailable, match=f"HTTP {status}"):
        deed(bench, attempt)


@every_call
def test_a_paypal_that_cannot_be_reached_is_unavailable(deed: Deed, paypal: PayPalSimulator) -> None:
    attempt = new_attempt(provider_session_id="5O190127TN364715T", provider_payment_id="2GG279541U471931P")
    nowhere = AdapterBench(PayPal, paypal.settings(), paypal_api_url="http://127.0.0.1:1")
    with nowhere as bench, pytest.raises(ProviderUnavailable, match="ConnectError"):
        deed(bench, attempt)


@every_call
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>hello</html>", b"[]", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"id": 5, "status": []}',
     b'{"id": "../../x", "status": "COMPLETED", "links": [{"rel": "approve", "href": "https://x"}]}',
     b'{"id": "X", "status": "DONE", "purchase_units": []}', b'{"id": "X", "status": "NEW", "links": null}'],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_unavailable(
    body: bytes, deed: Deed, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = paid(paypal, bench)
    paypal.faults.append(Fault(garbled=True, body=body))
    with pytest.raises(ProviderUnavailable, match="not as documented"):
        deed(bench, attempt)


@every_call
def test_a_refusal_names_issue_and_debug_id_and_nobody(
    deed: Deed, paypal: PayPalSimulator, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = paid(paypal, bench)
    paypal.faults.append(error(422, issue="SOMETHING_NEW"))
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderRefused, match=r"HTTP 422\): SOMETHING_NEW") as refused:
        deed(bench, attempt)
    assert "f0a1b2" in refused.value.hint
    assert "jane" not in f"{refused.value} {refused.value.hint} {caplog.text}"
    assert paypal.client_secret not in caplog.text


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "no explanation"), (b"<html>", "no explanation"), (b"[]", "no explanation"),
        (b'{"name": "NOT_AUTHORIZED"}', "NOT_AUTHORIZED"), (b'{"name": "jane@example.test"}', "no explanation"),
        (b'{"name": "X", "details": []}', "X"), (b'{"name": "X", "details": [{"issue": "Y"}]}', "Y"),
        (b'{"name": {"a": 1}, "debug_id": 5}', "no explanation"),
    ],
)  # fmt: skip
def test_a_refusal_of_any_shape_is_a_refusal(body: bytes, shown: str, paypal: PayPalSimulator, bench: Bench) -> None:
    paypal.faults.append(Fault(status=403, body=body))
    with pytest.raises(ProviderRefused, match=f"HTTP 403.: {shown}") as refused:
        bench.open_page(new_attempt())
    assert "jane" not in str(refused.value)


# the truth


def test_an_attempt_without_a_page_is_pending(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = new_attempt()
    assert bench.ask_about(attempt) == Outcome(
        provider="paypal", status="pending", source="verify", reference=attempt.reference
    )
    assert paypal.received == []


def test_an_approved_order_is_captured_and_reported(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    before = datetime.now(UTC) - timedelta(seconds=2)
    outcome = bench.ask_about(attempt, "return")
    (capture,) = [c for c in paypal.captures.values() if c["custom_id"] == attempt.reference]
    assert outcome == Outcome(
        provider="paypal",
        status="completed",
        source="return",
        reference=attempt.reference,
        provider_session_id=attempt.provider_session_id,
        provider_payment_id=capture["id"],
        amount=2500,
        currency="USD",
        paid_at=outcome.paid_at,
        provider_customer_id="QYR5Z8XDVJNXQ",
    )
    assert outcome.paid_at is not None
    assert before <= outcome.paid_at <= datetime.now(UTC)
    taken = paypal.received[-1]
    assert taken.path == f"{ORDERS}/{attempt.provider_session_id}/capture"
    assert taken.headers["paypal-request-id"] == f"cap-{attempt.reference}"
    assert taken.headers["prefer"] == "return=representation"


def test_asking_again_takes_nothing_again_and_says_the_same(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    first = bench.ask_about(attempt)
    assert [bench.ask_about(attempt) for _ in range(2)] == [first, first]
    assert captures(paypal) == 1


def test_the_return_and_the_webhook_at_once_take_the_money_once(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    # both see the approved order before either has captured it
    paypal.faults.extend([Fault(latency=0.2), Fault(latency=0.2), Fault(latency=0.1)])

    async def both() -> tuple[Outcome, Outcome]:
        ask = bench.adapter.ask
        return await asyncio.gather(ask(attempt, "return"), ask(attempt, "webhook"))

    with stamina.set_testing(False):  # the second meets the first under way (409), and then its answer
        one, other = bench.run(both())
    assert one == replace(other, source="return")
    assert one.status == "completed"
    assert captures(paypal) >= 2
    assert paypal.taken(str(attempt.checkout_url)) == 2500


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=True)], ids=["lost", "cut"])
def test_a_capture_whose_answer_was_lost_is_not_repeated(fault: Fault, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    paypal.faults.extend([Fault(), fault])
    assert bench.ask_about(attempt).status == "completed"
    assert paypal.taken(str(attempt.checkout_url)) == 2500


def test_a_capture_that_somebody_else_made_is_found(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    paypal.faults.extend([Fault(), error(422, issue="ORDER_ALREADY_CAPTURED")])
    paypal._take(paypal.orders[str(attempt.provider_session_id)])
    paypal.orders[str(attempt.provider_session_id)]["status"] = "APPROVED"
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.amount) == ("completed", 2500)
    assert requests(paypal)[1:] == ["POST capture", f"GET {attempt.provider_session_id}"]


@pytest.mark.parametrize("issue", AGAIN)
def test_what_the_buyer_can_mend_leaves_the_page_open(issue: str, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    paypal.next_capture[str(attempt.provider_session_id)] = issue
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.error_code, outcome.reference) == ("pending", None, attempt.reference)
    paypal.approve(str(attempt.provider_session_id))
    assert bench.ask_about(attempt).status == "completed"


@pytest.mark.parametrize("issue", NEVER)
def test_what_nobody_can_mend_ends_the_attempt(issue: str, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = approved(paypal, bench)
    paypal.next_capture[str(attempt.provider_session_id)] = issue
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.error_code) == ("failed", issue)
    assert (outcome.provider_payment_id, outcome.provider_session_id) == (None, attempt.provider_session_id)


@pytest.mark.parametrize(
    ("issue", "error_class"),
    [("ORDER_COMPLETION_IN_PROGRESS", ProviderUnavailable), ("SOMETHING_NEW", ProviderRefused)],
)
def test_another_issue_leaves_the_session_as_it_is(
    issue: str, error_class: type[ProviderError], paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = approved(paypal, bench)
    paypal.next_capture[str(attempt.provider_session_id)] = issue
    with pytest.raises(error_class, match=issue):
        bench.ask_about(attempt)


# whose money is taken, and whose is not


@pytest.mark.parametrize(
    ("session", "said"),
    [
        ("processing", "pending"), ("failed", "expired"), ("expired", "expired"), ("cancelled", "expired"),
        ("completed", "expired"), ("refunded", "expired"), ("partially_refunded", "expired"),
    ],
)  # fmt: skip
def test_nothing_is_taken_for_a_session_that_does_not_wait_for_money(
    session: Any, said: str, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = replace(approved(paypal, bench), status=session)
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.provider_payment_id) == (said, None)
    assert captures(paypal) == 0
    assert paypal.taken(str(attempt.checkout_url)) == 0


def test_of_two_approved_pages_of_one_session_the_second_is_not_taken(paypal: PayPalSimulator, bench: Bench) -> None:
    first = approved(paypal, bench)
    second = replace(approved(paypal, bench), session_id=first.session_id)
    assert bench.ask_about(first).status == "completed"
    # the core reads the session again before it asks about the next page
    assert bench.ask_about(replace(second, status="completed")).status == "expired"
    assert paypal.taken(str(second.checkout_url)) == 0


@pytest.mark.parametrize("session", ["pending", "expired", "cancelled", "failed"])
def test_money_that_was_taken_is_reported_whatever_became_of_the_session(
    session: Any, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = replace(paid(paypal, bench), status=session)
    assert bench.ask_about(attempt).status == "completed"


@pytest.mark.parametrize(("minutes", "said"), [(5, "pending"), (-1, "expired")])
@pytest.mark.parametrize("status", ["CREATED", "SAVED", "PAYER_ACTION_REQUIRED", "gone"])
def test_an_order_that_nobody_approved_is_pending_until_its_time_is_over(
    status: str, minutes: int, said: str, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt, page = opened(bench)
    attempt = replace(attempt, expires_at=datetime.now(UTC) + timedelta(minutes=minutes))
    paypal.orders[page.provider_session_id]["status"] = status
    if status == "gone":
        del paypal.orders[page.provider_session_id]
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.reference) == (said, attempt.reference)


def test_an_approved_order_is_captured_even_when_its_time_is_over(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = replace(approved(paypal, bench), expires_at=datetime.now(UTC) - timedelta(minutes=1))
    assert bench.ask_about(attempt).status == "completed"


def test_a_voided_order_is_cancelled(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    paypal.orders[page.provider_session_id]["status"] = "VOIDED"
    assert bench.ask_about(attempt).status == "cancelled"


def test_an_order_of_another_reference_is_refused_and_not_captured(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = replace(approved(paypal, bench), reference="0" * 32)
    with pytest.raises(ProviderRefused, match="not the one"):
        bench.ask_about(attempt)
    assert captures(paypal) == 0


# what captures say


def with_captures(paypal: PayPalSimulator, bench: Bench, *status: str) -> Attempt:
    attempt = approved(paypal, bench)
    order = paypal.orders[str(attempt.provider_session_id)]
    for one in status:
        order["status"] = "APPROVED"
        paypal.next_capture[order["id"]] = "COMPLETED"
        paypal._take(order)
        paypal.capture_of(order["id"])["status"] = one
    return attempt


@pytest.mark.parametrize(
    ("capture", "said"),
    [
        ("COMPLETED", "completed"), ("PARTIALLY_REFUNDED", "completed"), ("REFUNDED", "completed"),
        ("PENDING", "processing"), ("DECLINED", "failed"), ("FAILED", "failed"),
    ],
)  # fmt: skip
def test_of_a_completed_order_the_capture_decides(
    capture: str, said: str, paypal: PayPalSimulator, bench: Bench
) -> None:
    outcome = bench.ask_about(with_captures(paypal, bench, capture))
    assert (outcome.status, outcome.amount) == (said, 2500)
    assert outcome.error_code == (capture if said == "failed" else None)


@pytest.mark.parametrize("status", [("DECLINED", "COMPLETED"), ("COMPLETED", "DECLINED"), ("PENDING", "COMPLETED")])
def test_of_several_captures_the_one_that_brought_money_counts(
    status: tuple[str, ...], paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = with_captures(paypal, bench, *status)
    (good,) = [
        capture["id"]
        for capture in paypal.captures.values()
        if capture["custom_id"] == attempt.reference and capture["status"] == "COMPLETED"
    ]
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.provider_payment_id) == ("completed", good)


def test_a_declined_capture_of_an_order_that_is_approved_again_is_not_the_end(
    paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = with_captures(paypal, bench, "DECLINED")
    paypal.orders[str(attempt.provider_session_id)]["status"] = "PAYER_ACTION_REQUIRED"
    assert bench.ask_about(attempt).status == "pending"
    paypal.approve(str(attempt.provider_session_id))
    assert bench.ask_about(attempt).status == "completed"


def test_a_pending_capture_is_processing_until_its_last_word(paypal: PayPalSimulator, bench: Bench) -> None:
    for word, said in (("COMPLETED", "completed"), ("DECLINED", "failed")):
        attempt, page = opened(bench)
        paypal.buyer_pays_later(page.url, lambda _: pytest.fail("PayPal does not ask"))
        assert bench.ask_about(attempt).status == "processing"
        paypal.settle(page.url, word)
        outcome = bench.ask_about(replace(attempt, status="processing"))
        assert outcome.status == said
        assert outcome.error_code == (None if said == "completed" else "PENDING_REVIEW")


def test_the_amount_is_the_one_that_was_captured(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    paypal.buyer_pays(page.url, lambda _: pytest.fail("PayPal does not ask"), amount=1200, currency="HUF")
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.amount, outcome.currency) == ("completed", 1200, "HUF")


@pytest.mark.parametrize("at", ["2999-01-01T00:00:00Z", "2999-01-01T00:00:00"])
def test_a_payment_is_never_of_the_future(at: str, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    paypal.captures[str(attempt.provider_payment_id)]["create_time"] = at
    outcome = bench.ask_about(attempt)
    assert outcome.paid_at is not None
    assert outcome.paid_at <= datetime.now(UTC)


# money back


def test_a_refund_is_ordered_with_exactly_the_documented_body(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    refund = bench.refund(attempt, order_of(1000, "key-1", "not as described"))
    (request,) = paypal.received
    assert request.path == f"/v2/payments/captures/{attempt.provider_payment_id}/refund"
    assert request.headers["paypal-request-id"] == "key-1"
    assert json.loads(request.body) == {
        "amount": {"currency_code": "USD", "value": "10.00"}, "custom_id": attempt.reference
    }  # fmt: skip
    assert refund == Refund(
        provider_refund_id=refund.provider_refund_id, amount=1000, status="succeeded", reason="not as described"
    )
    assert refund.provider_refund_id in paypal.refunds


def test_the_same_order_gives_back_once(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    assert bench.refund(attempt, order_of(1000, "key-2")) == bench.refund(attempt, order_of(1000, "key-2"))
    paypal.faults.extend([Fault(lost=True), Fault(cut=True)])
    bench.refund(attempt, order_of(500, "key-3"))
    assert paypal.given_back(str(attempt.checkout_url)) == 1500


@pytest.mark.parametrize(
    ("at_paypal", "here"),
    [("COMPLETED", "succeeded"), ("PENDING", "pending"), ("FAILED", "failed"), ("CANCELLED", "failed")],
)
def test_each_status_of_a_refund_has_its_word_on_every_path(
    at_paypal: str, here: str, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = paid(paypal, bench)
    paypal.next_refund = at_paypal
    refund = bench.refund(attempt, order_of(1000, f"key-{attempt.reference}"))
    assert refund.status == here
    assert bench.ask_about(attempt).refunds == (refund,)


@pytest.mark.parametrize("issue", ["PENDING_CAPTURE", "REFUND_FAILED_INSUFFICIENT_FUNDS"])
def test_what_passes_by_itself_can_be_ordered_again_later(issue: str, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    paypal.next_refund = issue
    with pytest.raises(ProviderUnavailable, match=issue):
        bench.refund(attempt, order_of(1000, "later"))
    paypal.next_refund = "COMPLETED"
    assert bench.refund(attempt, order_of(1000, "later")).status == "succeeded"


@pytest.mark.parametrize(
    "issue", ["REFUND_TIME_LIMIT_EXCEEDED", "TRANSACTION_DISPUTED", "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK", "NEW_ONE"]
)
def test_what_does_not_pass_is_refused_by_name(issue: str, paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    paypal.next_refund = issue
    with pytest.raises(ProviderRefused, match=issue):
        bench.refund(attempt, order_of(1000, "never"))


def test_more_than_was_paid_is_refused(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    with pytest.raises(ProviderRefused, match="REFUND_AMOUNT_EXCEEDED"):
        bench.refund(attempt, order_of(2501, "too-much"))
    bench.refund(attempt, order_of(2500, "all"))
    with pytest.raises(ProviderRefused, match="CAPTURE_FULLY_REFUNDED"):
        bench.refund(attempt, order_of(1, "more"))


def test_a_payment_is_needed_to_give_it_back(bench: Bench) -> None:
    with pytest.raises(ValueError, match="paid"):
        bench.refund(new_attempt(), order_of(1))


def test_asking_tells_of_all_refunds(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    for amount in (500, 700):
        paypal.merchant_refunds(str(attempt.checkout_url), amount)
    outcome = bench.ask_about(attempt)
    assert (outcome.status, outcome.amount) == ("completed", 2500)
    assert [(refund.amount, refund.status, refund.kind) for refund in outcome.refunds] == [
        (500, "succeeded", "refund"), (700, "succeeded", "refund")
    ]  # fmt: skip


def test_money_that_paypal_took_back_without_listing_it_goes_under_the_payments_own_id(
    paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = paid(paypal, bench)
    paypal.merchant_refunds(str(attempt.checkout_url), 500)
    paypal.reverse(str(attempt.checkout_url), 2000, listed=False)
    listed, rest = bench.ask_about(attempt).refunds
    assert listed.amount == 500
    assert rest == Refund(
        provider_refund_id=str(attempt.provider_payment_id), amount=2000, status="succeeded", reason="reversed"
    )


def test_refunds_of_another_capture_are_not_this_ones(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = with_captures(paypal, bench, "COMPLETED", "COMPLETED")
    one, other = [capture for capture in paypal.captures.values() if capture["custom_id"] == attempt.reference]
    paypal._refund(one["id"], {"currency_code": "USD", "value": "5.00"}, {})
    one["status"] = "DECLINED"
    outcome = bench.ask_about(attempt)
    assert (outcome.provider_payment_id, outcome.refunds) == (other["id"], ())


@pytest.mark.parametrize("capture", ["COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"])
def test_of_an_order_that_paypal_has_forgotten_the_capture_still_tells(
    capture: str, paypal: PayPalSimulator, bench: Bench
) -> None:
    attempt = paid(paypal, bench)
    before = bench.ask_about(attempt)
    paypal.captures[str(attempt.provider_payment_id)]["status"] = capture
    del paypal.orders[str(attempt.provider_session_id)]
    # which refunds there were, only the order lists; the payer is not shown either
    assert bench.ask_about(attempt) == replace(before, provider_customer_id=None)


def test_a_forgotten_order_that_was_not_the_one_that_was_paid_is_over(paypal: PayPalSimulator, bench: Bench) -> None:
    other = paid(paypal, bench)
    attempt, page = opened(bench)
    del paypal.orders[page.provider_session_id]
    past = datetime.now(UTC) - timedelta(minutes=1)
    for payment in (other.provider_payment_id, "2GG279541U471931P"):
        asked = replace(attempt, provider_payment_id=payment, expires_at=past)
        assert bench.ask_about(asked).status == "expired"


def test_a_reversal_that_is_listed_is_one_refund(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt = paid(paypal, bench)
    paypal.reverse(str(attempt.checkout_url))
    (refund,) = bench.ask_about(attempt).refunds
    assert (refund.amount, refund.provider_refund_id in paypal.refunds) == (2500, True)


# returns


@pytest.mark.parametrize(
    ("query", "reference", "order"),
    [
        (f"reference={'a1' * 16}&token=5O190127TN364715T&PayerID=X", "a1" * 16, "5O190127TN364715T"),
        ("token=5O190127TN364715T", None, "5O190127TN364715T"), (f"reference={'a1' * 16}", "a1" * 16, None),
        ("", None, None), ("reference=1&token=..%2Fx", None, None), ("token=%00", None, None),
        (f"reference={'A1' * 16}", None, None), ("token=" + "X" * 65, None, None),
    ],
)  # fmt: skip
def test_a_return_names_an_attempt_or_nothing(
    query: str, reference: str | None, order: str | None, bench: Bench
) -> None:
    named = bench.adapter.read_return(query)
    assert (named.reference, named.provider_session_id) == (reference, order)


def test_what_paypal_adds_to_the_return_is_read(paypal: PayPalSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    named = bench.adapter.read_return(paypal.return_query(page.url))
    assert (named.reference, named.provider_session_id) == (attempt.reference, page.provider_session_id)


@given(query=st.text(max_size=80))
def test_no_query_is_an_error(query: str, bench: Bench) -> None:
    named = bench.adapter.read_return(query)
    assert "\0" not in f"{named.reference}{named.provider_session_id}"
