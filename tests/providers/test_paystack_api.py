"""Paystack's API as the adapter uses it: pages, the truth about them, and everything that can go wrong on the way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stamina
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.errors import NotSupported, ProviderError, ProviderRefused, ProviderUnavailable, WrongMode
from bridge.providers.paystack import Paystack
from bridge.simulators.base import CannotDo, Delivery, Fault, Json
from bridge.simulators.paystack import PaystackSimulator
from bridge.values import Attempt, Named, Page
from tests.providers.bench import AdapterBench, new_attempt

Bench = AdapterBench[Paystack]


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
    account.fee = 0
    return account


def purchase(**changes: Any) -> Attempt:
    return new_attempt(provider="paystack", **{"currency": "NGN", "amount": 250_000, **changes})


def opened(bench: Bench, **changes: Any) -> tuple[Attempt, Page]:
    """An attempt with its page, as it is stored then."""
    attempt = purchase(**changes)
    page = bench.open_page(attempt)
    stored = {"provider_session_id": page.provider_session_id, "checkout_url": page.url}
    return purchase(**{**changes, "reference": attempt.reference, **stored}), page


Deed = Callable[[Bench], object]
EVERY_CALL: dict[str, Deed] = {
    "open_page": lambda bench: bench.open_page(purchase()),
    "ask": lambda bench: bench.ask_about(purchase(provider_session_id="0" * 32)),
}
every_call = pytest.mark.parametrize("deed", EVERY_CALL.values(), ids=EVERY_CALL)


# opening a page


def test_a_page_is_opened_with_exactly_the_documented_fields(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt = purchase()
    page = bench.open_page(attempt)
    (request,) = paystack.received
    assert (request.method, request.path) == ("POST", "/transaction/initialize")
    assert request.headers["authorization"] == f"Bearer {paystack.secret_key}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "reference": attempt.reference,
        "amount": 250_000,
        "currency": "NGN",
        "email": "buyer@example.test",
        "callback_url": "https://bridge.test/return/paystack",
        "metadata": {"cancel_action": f"https://bridge.test/return/paystack?reference={attempt.reference}"},
    }
    assert page.provider_session_id == attempt.reference
    assert paystack.transaction(page.url)["reference"] == attempt.reference
    assert page.expires_at is None


def test_a_franc_is_a_hundred_subunits(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench, currency="XOF", amount=2500)
    assert json.loads(paystack.received[0].body)["amount"] == 250_000
    paystack.buyer_pays(page.url, nobody)
    outcome = bench.ask_about(attempt)
    assert (outcome.amount, outcome.currency) == (2500, "XOF")
    assert paystack.taken(page.url) == 2500


@pytest.mark.parametrize(
    ("public_url", "host"),
    [("https://pay.shop.example/bridge", "pay.shop.example"), ("http://127.0.0.1:8000", "example.com"),
     ("http://localhost:8000", "example.com"), ("http://[::1]:8000", "example.com")],
)  # fmt: skip
def test_a_buyer_without_an_address_gets_one_that_stands_for_the_attempt(
    public_url: str, host: str, paystack: PaystackSimulator
) -> None:
    attempt = purchase(email=None)
    with AdapterBench(Paystack, paystack.settings(), public_url=public_url) as bench:
        bench.open_page(attempt)
    said = json.loads(paystack.received[0].body)
    assert said["email"] == f"{attempt.reference}@{host}"
    assert str(attempt.user_id) not in str(said)
    assert str(attempt.session_id) not in str(said)


def test_a_reference_is_taken_once_and_its_page_cannot_be_fetched_again(
    paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt = purchase()
    bench.open_page(attempt)
    with pytest.raises(ProviderRefused, match="address is lost") as refused:
        bench.open_page(attempt)
    assert not refused.value.retryable
    assert len(paystack.transactions) == len({paid["id"] for paid in paystack.transactions.values()})


@pytest.mark.parametrize("said", [{"message": "Duplicate Transaction Reference"}, {"code": "duplicate_reference"}])
def test_a_duplicate_is_known_by_its_message_or_by_its_code(
    said: Json, paystack: PaystackSimulator, bench: Bench
) -> None:
    paystack.faults.append(Fault(status=400, body=json.dumps({"status": False, **said}).encode()))
    with pytest.raises(ProviderRefused, match="address is lost"):
        bench.open_page(purchase())


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=True), Fault(garbled=True, body=b"{}")])
def test_a_lost_answer_asks_for_another_try_and_that_ends_the_attempt(
    fault: Fault, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt = purchase()
    paystack.faults.append(fault)
    with pytest.raises(ProviderUnavailable):
        bench.open_page(attempt)
    assert len(paystack.received) == 1
    with pytest.raises(ProviderRefused):
        bench.open_page(attempt)
    assert bench.open_page(purchase()).url


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_a_page_that_was_never_opened_is_opened_by_the_next_try(
    status: int, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt = purchase()
    paystack.faults.append(Fault(status=status))
    with pytest.raises(ProviderUnavailable, match=f"HTTP {status}"):
        bench.open_page(attempt)
    assert len(paystack.received) == 1
    assert bench.open_page(attempt).provider_session_id == attempt.reference


def test_a_page_is_never_opened_for_an_attempt_that_is_not_stored(paystack: PaystackSimulator, bench: Bench) -> None:
    with pytest.raises(ValueError, match="stored first"):
        bench.open_page(purchase(reference=None))
    assert paystack.received == []


@pytest.mark.parametrize(
    ("changes", "said", "remedy"),
    [({"amount": 4_999}, "invalid amount", "higher price"),
     ({"amount": 10**12}, "transaction amount limit exceeded", "smaller price"),
     ({"currency": "EUR"}, "currency not supported by merchant", "Ask Paystack"),
     ({"email": "nobody"}, "invalid email address", "e-mail address")],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_refusal_says_why_and_what_to_do(
    changes: Json, said: str, remedy: str, paystack: PaystackSimulator, bench: Bench
) -> None:
    with pytest.raises(ProviderRefused, match=rf"HTTP 400.*{said}") as refused:
        bench.open_page(purchase(**changes))
    assert remedy in refused.value.hint
    assert len(paystack.received) == 1


def test_what_the_buyer_typed_is_not_repeated_in_errors(paystack: PaystackSimulator, bench: Bench) -> None:
    body = {"status": False, "message": 'Customer "jane@private.test" is barred', "code": "Jane Private"}
    paystack.faults.append(Fault(status=400, body=json.dumps(body).encode()))
    with pytest.raises(ProviderRefused, match="no explanation") as refused:
        bench.open_page(purchase(email="jane@private.test"))
    assert "jane" not in (refused.value.message + refused.value.hint).lower()


# when Paystack is in trouble


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_a_question_is_asked_again(status: int, paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, _ = opened(bench)
    paystack.received.clear()
    paystack.faults.extend([Fault(status=status), Fault(lost=True)])
    assert bench.ask_about(attempt).status == "pending"
    assert len(paystack.received) == 3
    paystack.faults.extend([Fault(status=status)] * 3)
    with pytest.raises(ProviderUnavailable, match=f"HTTP {status}"):
        bench.ask_about(attempt)


@every_call
def test_a_paystack_that_cannot_be_reached_is_unavailable(deed: Deed, paystack: PaystackSimulator) -> None:
    nowhere = paystack.settings() | {"paystack_api_url": "http://127.0.0.1:1"}
    with AdapterBench(Paystack, nowhere) as bench, pytest.raises(ProviderUnavailable, match="ConnectError"):
        deed(bench)


def test_where_no_connection_came_about_it_is_tried_again(paystack: PaystackSimulator, bench: Bench) -> None:
    tries = []

    async def refuse_once(request: httpx.Request) -> None:
        tries.append(request.url.path)
        if len(tries) == 1:
            raise httpx.ConnectError("refused")

    hooks = bench.adapter._client.event_hooks
    bench.adapter._client.event_hooks = {"request": [refuse_once]}
    try:
        with stamina.set_testing(False):
            assert bench.open_page(purchase()).url
    finally:
        bench.adapter._client.event_hooks = hooks
    assert tries == ["/transaction/initialize"] * 2
    assert len(paystack.received) == 1


@every_call
def test_a_paystack_that_is_slow_is_unavailable(deed: Deed, paystack: PaystackSimulator) -> None:
    paystack.faults.extend([Fault(latency=0.5)] * 3)
    with (
        AdapterBench(Paystack, paystack.settings(), timeout=0.1) as hasty,
        pytest.raises(ProviderUnavailable, match="ReadTimeout"),
    ):
        deed(hasty)


@every_call
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, body=b""),
        Fault(status=200, body=b"<html>hello</html>"),
        Fault(status=200, body=b"[]"),
        Fault(status=200, body=b"null"),
        Fault(status=200, body=b'"yes"'),
        Fault(status=200, body=b"{}"),
        Fault(status=200, body=b'{"status": true}'),
        Fault(status=200, body=b'{"status": true, "data": null}'),
        Fault(status=200, body=b'{"status": true, "data": []}'),
        Fault(status=200, body=b'{"status": true, "data": {}}'),
        Fault(status=200, body=b'{"status": true, "data": {"reference": "another", "authorization_url": "https://x"}}'),
        Fault(status=200, body=b"\xff\xfe"),
        Fault(status=200, body=b"[" * 100_000),
        Fault(status=200, body=b"{}", headers={"Content-Encoding": "gzip"}),
        Fault(status=502, body=b"<html><h1>502 Bad Gateway</h1></html>", headers={"Content-Type": "text/html"}),
        Fault(lost=True),
        Fault(cut=True),
    ],
    ids=lambda fault: ascii(fault.body[:50]),
)
def test_an_answer_that_makes_no_sense_is_unavailable(
    fault: Fault, deed: Deed, paystack: PaystackSimulator, bench: Bench
) -> None:
    paystack.faults.extend([fault] * 3)
    with pytest.raises(ProviderUnavailable):
        deed(bench)


@every_call
def test_a_wrong_key_names_the_setting(deed: Deed, paystack: PaystackSimulator) -> None:
    wrong = paystack.settings() | {"paystack_secret_keys": "sk_test_wrong"}
    with AdapterBench(Paystack, wrong) as bench, pytest.raises(ProviderRefused, match="HTTP 401") as refused:
        deed(bench)
    assert "PGCHECKOUT_PAYSTACK_SECRET_KEYS" in refused.value.hint


def test_the_first_key_makes_the_calls(paystack: PaystackSimulator) -> None:
    both = paystack.settings() | {"paystack_secret_keys": f"{paystack.secret_key}, sk_test_old"}
    with AdapterBench(Paystack, both) as bench:
        assert bench.open_page(purchase()).url


@every_call
@pytest.mark.parametrize("status", [302, 400, 402, 404, 422])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"no"', b"{}", b'{"code": {}}', b"\xff", b"[" * 100_000])
def test_a_refusal_without_an_explanation_is_still_a_refusal(
    status: int, body: bytes, deed: Deed, paystack: PaystackSimulator, bench: Bench
) -> None:
    paystack.faults.append(Fault(status=status, body=body))
    with pytest.raises(ProviderRefused, match=rf"HTTP {status}.*no explanation"):
        deed(bench)


def test_a_refusal_with_http_200_is_a_refusal(paystack: PaystackSimulator, bench: Bench) -> None:
    paystack.faults.append(Fault(status=200, body=b'{"status": false, "message": "No", "code": "unknown"}'))
    with pytest.raises(ProviderRefused, match="unknown"):
        bench.open_page(purchase())


@every_call
@pytest.mark.parametrize(
    "fault",
    [Fault(status=401), Fault(status=400), Fault(status=503), Fault(lost=True), Fault(status=200, body=b"{}")],
    ids=["401", "400", "503", "lost", "nonsense"],
)
def test_no_secret_reaches_an_exception_or_the_logs(
    fault: Fault, deed: Deed, paystack: PaystackSimulator, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    paystack.faults.extend([fault] * 3)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")  # which the bridge silences
    with pytest.raises(ProviderError) as caught:
        deed(bench)
    records = [str(record.__dict__) for record in caplog.records]
    assert records
    said = "\n".join([*records, repr(caught.value), caught.value.hint, str(caught.getrepr(style="long"))])
    assert paystack.secret_key not in said
    assert "buyer@example.test" not in said


# asking for the truth


NOW = datetime.now(UTC)
IN_TIME, TOO_LATE = NOW + timedelta(hours=2), NOW - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("said", "in_time", "too_late"),
    [("abandoned", "pending", "expired"), ("ongoing", "pending", "pending"), ("pending", "processing", "processing"),
     ("processing", "processing", "processing"), ("queued", "processing", "processing"),
     ("failed", "pending", "failed"), ("success", "completed", "completed"), ("reversed", "completed", "completed"),
     ("something new", "pending", "pending")],
)  # fmt: skip
def test_a_status_means_what_the_table_says(
    said: str, in_time: str, too_late: str, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = opened(bench)
    paystack.transaction(page.url)["status"] = said
    for expires_at, meaning in ((IN_TIME, in_time), (TOO_LATE, too_late)):
        asked = purchase(reference=attempt.reference, expires_at=expires_at)
        assert bench.ask_about(asked).status == meaning


def test_a_payment_is_told_with_everything_that_proves_it(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    before = datetime.now(UTC) - timedelta(seconds=1)
    paystack.buyer_pays(page.url, nobody)
    outcome = bench.ask_about(attempt, "reconcile")
    assert (outcome.provider, outcome.source, outcome.status) == ("paystack", "reconcile", "completed")
    assert outcome.reference == outcome.provider_session_id == attempt.reference
    assert outcome.provider_payment_id == str(paystack.transaction(page.url)["id"])
    assert (outcome.amount, outcome.currency) == (250_000, "NGN")
    assert outcome.provider_customer_id == "CUS_6wbxh6689vt0n7s"
    assert (outcome.refunds, outcome.disputed, outcome.error_code) == ((), False, None)
    assert outcome.paid_at is not None
    assert before <= outcome.paid_at <= datetime.now(UTC)


def test_a_decline_is_not_the_end_for_the_buyer_can_try_again(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    assert paystack.buyer_is_declined(page.url, nobody) == []
    declined = bench.ask_about(attempt)
    assert (declined.status, declined.error_code) == ("pending", "payment_failed")
    assert declined.error_message == "Insufficient Funds"
    paystack.buyer_pays(page.url, nobody)
    assert bench.ask_about(attempt).status == "completed"


def test_a_payment_that_takes_time_arrives(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays_later(page.url, nobody)
    assert bench.ask_about(attempt).status == "processing"
    paystack.money_arrives(page.url)
    assert bench.ask_about(attempt).status == "completed"


@pytest.mark.parametrize("metadata", [{"cancel_action": "x"}, "", 0, None, "[]", []])
def test_metadata_of_any_shape_does_no_harm(metadata: Any, paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    paystack.transaction(page.url)["metadata"] = metadata
    assert bench.ask_about(attempt).status == "completed"


def test_fees_that_the_buyer_bears_are_not_taken_for_the_price(paystack: PaystackSimulator, bench: Bench) -> None:
    paystack.fee = 10_283
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    assert paystack.taken(page.url) == 260_283
    assert bench.ask_about(attempt).amount == 250_000


@pytest.mark.parametrize(
    ("amount", "requested", "counted"),
    [(250_000, None, 250_000), (250_000, 250_000, 250_000), (100_000, 250_000, 100_000), ("260000", "250000", 250_000)],
)
def test_never_more_is_counted_than_was_charged(
    amount: Any, requested: Any, counted: int, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    paystack.transaction(page.url).update(amount=amount, requested_amount=requested)
    assert bench.ask_about(attempt).amount == counted


def test_what_the_buyer_paid_instead_is_told_as_it_is(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody, amount=100, currency="GHS")
    outcome = bench.ask_about(attempt)
    assert (outcome.amount, outcome.currency) == (100, "GHS")


@pytest.mark.parametrize(
    ("said", "expected"),
    [("2026-08-22T09:15:02.000Z", datetime(2026, 8, 22, 9, 15, 2, tzinfo=UTC)),
     ("2026-08-22T09:15:02", datetime(2026, 8, 22, 9, 15, 2, tzinfo=UTC)),
     ("2026-08-22T10:15:02+01:00", datetime(2026, 8, 22, 9, 15, 2, tzinfo=UTC)), (None, None)],
)  # fmt: skip
def test_a_time_is_read_with_its_zone(
    said: str | None, expected: datetime | None, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    paystack.transaction(page.url).update(paid_at=said, paidAt=None)
    assert bench.ask_about(attempt).paid_at == expected


def test_a_time_without_a_zone_is_utc_wherever_this_machine_stands(
    paystack: PaystackSimulator, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    paystack.transaction(page.url)["paid_at"] = "2026-08-22T09:15:02"
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Africa/Lagos")
        time.tzset()
        paid_at = bench.ask_about(attempt).paid_at
    time.tzset()
    assert paid_at == datetime(2026, 8, 22, 9, 15, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [{"reference": "f" * 32}, {"id": 0}, {"id": -1}, {"id": 2**64}, {"id": 1.5}, {"id": True}, {"id": ""},
     {"paid_at": "1969-12-31T00:00:00Z"}, {"paid_at": "soon"}, {"currency": ""}, {"amount": -1}],
    ids=str,
)  # fmt: skip
def test_a_payment_that_is_not_as_documented_is_not_believed(
    changes: Json, paystack: PaystackSimulator, bench: Bench
) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    shown = {**paystack.transaction(page.url), **changes}
    paystack.faults.append(Fault(status=200, body=json.dumps({"status": True, "data": shown}).encode()))
    with pytest.raises(ProviderUnavailable, match="not as documented"):
        bench.ask_about(attempt)


def test_a_time_in_the_future_is_now(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    paystack.transaction(page.url)["paid_at"] = "2099-01-01T00:00:00Z"
    paid_at = bench.ask_about(attempt).paid_at
    assert paid_at is not None
    assert paid_at <= datetime.now(UTC)


def test_a_page_that_paystack_does_not_know_is_pending(paystack: PaystackSimulator, bench: Bench) -> None:
    outcome = bench.ask_about(purchase(reference="f" * 32))
    assert (outcome.status, outcome.reference, outcome.provider_payment_id) == ("pending", "f" * 32, None)
    assert len(paystack.received) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b'{"status": false, "message": "x", "code": "transaction_not_found"}'),
     (400, b'{"status": false, "message": "Transaction reference not found."}'),
     (400, b'{"status": false, "message": "Transaction not found", "code": null}')],
)  # fmt: skip
def test_not_found_has_several_forms(status: int, body: bytes, paystack: PaystackSimulator, bench: Bench) -> None:
    paystack.faults.append(Fault(status=status, body=body))
    assert bench.ask_about(purchase()).status == "pending"


def test_without_a_reference_there_is_nothing_to_ask(paystack: PaystackSimulator, bench: Bench) -> None:
    assert bench.ask_about(purchase(reference=None)).status == "pending"
    assert paystack.received == []


@pytest.mark.parametrize(("key", "mode"), [("sk_test_1", "live"), ("sk_live_1", "test"), ("sk_1", "test")])
def test_play_money_proves_nothing_to_a_live_key_nor_the_other_way_round(key: str, mode: str) -> None:
    with PaystackSimulator() as paystack:
        paystack.secret_key = key
        paystack.domain = mode
        with AdapterBench(Paystack, paystack.settings()) as bench:
            attempt, page = opened(bench)
            paystack.buyer_pays(page.url, nobody)
            with pytest.raises(WrongMode):
                bench.ask_about(attempt)
            paystack.transaction(page.url)["domain"] = "test" if mode == "live" else "live"
            assert bench.ask_about(attempt).status == "completed"


PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["success", "reversed", "test", "NGN", "2026-08-22T09:15:02.000Z", "-1", "9" * 5000]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "amount", "status"]), inner),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(
    st.sampled_from(["id", "domain", "status", "reference", "amount", "requested_amount", "currency", "paid_at",
                     "customer", "metadata", "gateway_response"]),
    PIECES, max_size=4,
))  # fmt: skip
def test_whatever_paystack_answers_is_an_outcome_or_an_error_of_ours(
    changes: Json, paystack: PaystackSimulator, bench: Bench
) -> None:
    answer = {
        "id": 1, "domain": "test", "status": "pending", "reference": "a" * 32, "amount": 1, "requested_amount": 1,
        "currency": "NGN", "paid_at": None, "customer": {}, **changes,
    }  # fmt: skip
    body = json.dumps({"status": True, "data": answer}).encode()
    paystack.faults.clear()
    paystack.faults.extend([Fault(status=200, body=body), Fault(status=404, body=b"{}")])
    try:
        outcome = bench.ask_about(purchase(reference="a" * 32))
    except (ProviderError, WrongMode):
        return
    assert outcome.reference == "a" * 32
    assert outcome.status in ("pending", "processing")


# coming back and closing


@pytest.mark.parametrize(
    ("query", "reference"),
    [("trxref=a1&reference=a1", "a1"), ("reference=b2", "b2"), ("trxref=c3", "c3"), ("", None),
     ("x=1&reference=", None), ("reference=a&reference=b", "a"), ("reference=%FF%00", "\ufffd\0")],
)  # fmt: skip
def test_a_buyer_comes_back_with_the_reference(query: str, reference: str | None, bench: Bench) -> None:
    assert bench.adapter.read_return(query) == Named(reference=reference)


def test_the_browser_comes_back_with_what_we_can_read(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    assert bench.adapter.read_return(paystack.return_query(page.url)).reference == attempt.reference


@given(query=st.text())
def test_any_query_is_read(query: str, bench: Bench) -> None:
    assert bench.adapter.read_return(query).provider_session_id is None


def test_what_came_back_with_the_browser_proves_nothing(paystack: PaystackSimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    returned = paystack.return_query(page.url) + "&status=success"
    assert bench.ask_about(attempt, "return", returned=returned).status == "pending"


def test_paystack_has_no_way_to_close_a_page(bench: Bench, paystack: PaystackSimulator) -> None:
    _, page = opened(bench)
    with pytest.raises(NotSupported):
        bench.close_page(page.provider_session_id)
    with pytest.raises(CannotDo):
        paystack.page_expires(page.url)


def test_webhooks_come_from_the_addresses_in_the_settings(paystack: PaystackSimulator, bench: Bench) -> None:
    assert bench.adapter.source_addresses == ("52.31.139.75/32", "52.49.173.169/32", "52.214.14.220/32")
    with AdapterBench(Paystack, paystack.settings(), paystack_source_ips="") as unchecked:
        assert unchecked.adapter.source_addresses == ()


def test_without_a_key_there_is_no_adapter(paystack: PaystackSimulator) -> None:
    with pytest.raises(ValueError, match="paystack_secret_keys"):
        AdapterBench(Paystack, {})


# the simulator is as strict as Paystack


BODY = {"email": "a@b.example", "amount": 5_000, "currency": "NGN", "reference": "r-1"}


@pytest.mark.parametrize(
    "changes",
    [{"amount": "5000"}, {"amount": 4_999}, {"amount": 0}, {"amount": 10**9 + 1}, {"currency": "EUR"},
     {"currency": "ngn"}, {"email": "nobody"}, {"email": None}, {"reference": "under_score"}, {"reference": ""},
     {"callback_url": "bridge"}, {"metadata": 5}, {"expires_at": 1}],
    ids=str,
)  # fmt: skip
def test_what_paystack_refuses_is_refused(changes: Json, paystack: PaystackSimulator) -> None:
    known = {"Authorization": f"Bearer {paystack.secret_key}"}
    url = f"{paystack.url}/transaction/initialize"
    answer = httpx.post(url, json=BODY | changes, headers=known)
    assert (answer.status_code, answer.json()["status"]) == (400, False)
    good = httpx.post(url, json=BODY | {"reference": purchase().reference}, headers=known)
    assert (good.status_code, good.json()["message"]) == (200, "Authorization URL created")


def test_a_transaction_is_paid_once(paystack: PaystackSimulator, bench: Bench) -> None:
    _, page = opened(bench)
    paystack.buyer_pays(page.url, nobody)
    with pytest.raises(ValueError, match="nobody can pay"):
        paystack.buyer_pays(page.url, nobody)
