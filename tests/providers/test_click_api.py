"""Click's link and Merchant API as the adapter uses them: the truth about payments, reversals, and bad networks."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import NotSupported, ProviderError, ProviderRefused, ProviderUnavailable, RefundInDoubt
from bridge.providers.click import TASHKENT, Click
from bridge.simulators.base import Delivery, Fault
from bridge.simulators.click import (
    BEING_PROCESSED,
    CREATED,
    FAILED,
    PAID,
    REVERSED,
    ClickSimulator,
    Payment,
    auth_header,
)
from bridge.values import Attempt, Page, Refund, RefundOrder
from tests.providers.bench import AdapterBench, new_attempt

VECTORS = json.loads((Path(__file__).parent / "vectors" / "click.json").read_text())
PRICE = 2_500_050

Bench = AdapterBench[Click]


@pytest.fixture(scope="module")
def server() -> Iterator[ClickSimulator]:
    with ClickSimulator() as server:
        yield server


@pytest.fixture
def click(server: ClickSimulator) -> ClickSimulator:
    """The account without faults or payments of another test."""
    server.faults.clear()
    server.received.clear()
    server.payments.clear()
    server.today, server.refuses = None, ""
    return server


@pytest.fixture(scope="module")
def bench(server: ClickSimulator) -> Iterator[Bench]:
    with AdapterBench(Click, server.settings(), timeout=1.0) as bench:
        yield bench


def an_attempt(**changes: Any) -> Attempt:
    """Over 25 000.50 soums, with its link."""
    values = {"provider": "click", "currency": "UZS", "amount": PRICE, "provider_session_id": "7"}
    return new_attempt(**(values | changes))


def a_payment(click: ClickSimulator, attempt: Attempt, status: int = PAID) -> Payment:
    payment = click.new_payment(str(attempt.reference), attempt.amount)
    payment.status, payment.debited = status, status == PAID
    return payment


def paths(click: ClickSimulator) -> list[str]:
    return [f"{request.method} {request.path.removeprefix('/v2/merchant/payment/')}" for request in click.received]


def day(days: int = 0) -> str:
    return str(datetime.now(TASHKENT).date() + timedelta(days=days))


# the link


def test_the_link_has_exactly_the_documented_parameters(click: ClickSimulator, bench: Bench) -> None:
    attempt = an_attempt(provider_session_id=None)
    page = bench.open_page(attempt)
    address = urlsplit(page.url)
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{click.url}/services/pay"
    assert parse_qs(address.query) == {
        "service_id": ["73438"],
        "merchant_id": ["46"],
        "amount": ["25000.50"],
        "transaction_param": [attempt.reference],
        "return_url": [f"https://bridge.test/return/click?reference={attempt.reference}"],
        "merchant_user_id": ["12345"],
    }
    assert page == Page(provider_session_id="7", url=page.url, expires_at=attempt.expires_at)
    assert click.received == []


def test_nothing_else_of_ours_is_in_the_link(bench: Bench) -> None:
    attempt = an_attempt()
    url = bench.open_page(attempt).url
    for ours in (attempt.user_id, attempt.session_id, "buyer", "credits"):
        assert str(ours) not in url
    assert ClickSimulator.secret not in url


def test_the_same_attempt_has_the_same_link(bench: Bench) -> None:
    attempt = an_attempt()
    assert bench.open_page(attempt) == bench.open_page(attempt)
    assert bench.open_page(attempt).url != bench.open_page(an_attempt()).url


def test_the_link_points_at_click_unless_told_otherwise(click: ClickSimulator) -> None:
    fitting = {name: value for name, value in click.settings().items() if not name.endswith("_url")}
    with AdapterBench(Click, fitting) as bench:
        assert bench.open_page(an_attempt()).url.startswith("https://my.click.uz/services/pay?service_id=")


@given(st.integers(1, 10**14))
def test_any_price_is_written_as_click_reads_it(bench: Bench, amount: int) -> None:
    (text,) = parse_qs(urlsplit(bench.open_page(an_attempt(amount=amount)).url).query)["amount"]
    whole, _, part = text.partition(".")
    assert (int(whole) * 100 + int(part), len(part)) == (amount, 2)


@pytest.mark.parametrize("changes", [{"currency": "USD"}, {"currency": "KZT"}, {"amount": 0}, {"amount": -5}])
def test_what_click_cannot_take_is_refused_with_a_remedy(bench: Bench, changes: dict[str, Any]) -> None:
    with pytest.raises(ProviderRefused) as refused:
        bench.open_page(an_attempt(**changes))
    assert "UZS" in refused.value.hint


@pytest.mark.parametrize("missing", ["reference", "number"])
def test_a_page_is_never_opened_for_an_attempt_that_is_not_stored(bench: Bench, missing: str) -> None:
    with pytest.raises(ValueError, match="stored first"):
        bench.open_page(an_attempt(**{missing: None}))


def test_a_link_cannot_be_closed(bench: Bench) -> None:
    with pytest.raises(NotSupported, match="Click"):
        bench.close_page("7")


def test_without_a_key_there_is_no_adapter(click: ClickSimulator) -> None:
    with pytest.raises(ValueError, match="click_secret_key"):
        AdapterBench(Click, {**click.settings(), "click_secret_key": None})


# the truth


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [(PAID, "completed", None), (BEING_PROCESSED, "processing", None), (CREATED, "pending", None),
     (FAILED, "failed", "-1"), (REVERSED, "failed", "-9"), (-5017, "failed", "-5017")],
)  # fmt: skip
def test_the_status_of_the_payment_is_the_truth(
    click: ClickSimulator, bench: Bench, code: int, status: str, error: str | None
) -> None:
    attempt = an_attempt()
    payment = a_payment(click, attempt, code)
    said = bench.ask_about(attempt, "reconcile")
    assert (said.status, said.source, said.reference) == (status, "reconcile", attempt.reference)
    assert (said.provider_payment_id, said.provider_session_id) == (str(payment.id), "7")
    assert said.error_code == error
    # Click states no amounts: the one that Prepare consented to
    assert (said.amount, said.currency) == ((PRICE, "UZS") if status == "completed" else (None, None))
    assert paths(click) == [f"GET status_by_mti/73438/{attempt.reference}/{day()}", f"GET status/73438/{payment.id}"]


@pytest.mark.parametrize("status", [3, "2", True, None, 2.0])
def test_a_status_that_is_not_documented_is_no_status(click: ClickSimulator, bench: Bench, status: Any) -> None:
    attempt = an_attempt()
    a_payment(click, attempt, status)
    with pytest.raises(ProviderUnavailable, match="not as documented"):
        bench.ask_about(attempt)


@pytest.mark.parametrize(("days", "asked"), [(0, [0]), (-1, [0, -1]), (1, [0, -1, 1])])
def test_a_payment_of_the_day_before_or_after_is_found(
    click: ClickSimulator, bench: Bench, days: int, asked: list[int]
) -> None:
    attempt = an_attempt()
    click.today = datetime.now(TASHKENT).date() + timedelta(days=days)
    payment = a_payment(click, attempt)
    assert bench.ask_about(attempt).provider_payment_id == str(payment.id)
    assert paths(click)[:-1] == [f"GET status_by_mti/73438/{attempt.reference}/{day(days)}" for days in asked]


def test_the_day_is_tashkents(click: ClickSimulator, bench: Bench) -> None:
    evening = datetime(2026, 3, 1, 19, 0, tzinfo=UTC)  # midnight of the 2nd in Tashkent
    attempt = an_attempt(created_at=evening, expires_at=evening + timedelta(hours=1))
    bench.ask_about(attempt)
    days = ["2026-03-02", "2026-03-01", "2026-03-03"]
    assert paths(click) == [f"GET status_by_mti/73438/{attempt.reference}/{day}" for day in days]


def test_a_link_that_lives_long_is_looked_for_on_every_day_of_its_life_until_today(
    click: ClickSimulator, bench: Bench
) -> None:
    now = datetime.now(UTC)
    attempt = an_attempt(created_at=now - timedelta(days=4), expires_at=now + timedelta(days=9))
    click.today = datetime.now(TASHKENT).date()
    payment = a_payment(click, attempt)
    assert bench.ask_about(attempt).provider_payment_id == str(payment.id)
    assert [path[-10:] for path in paths(click)[:-1]] == [day(offset) for offset in (-4, -5, -3, -2, -1, 0)]
    click.received.clear()
    over = an_attempt(created_at=now - timedelta(days=40), expires_at=now - timedelta(days=39))
    bench.ask_about(over)
    assert [path[-10:] for path in paths(click)] == [day(offset) for offset in (-40, -41, -39, -38)]


@pytest.mark.parametrize(
    ("hours", "session", "status"),
    [(1, "pending", "pending"), (-1, "pending", "expired"), (-1, "processing", "pending")],
)
def test_what_click_does_not_know_is_pending_until_its_time_is_over(
    click: ClickSimulator, bench: Bench, hours: int, session: str, status: str
) -> None:
    # once we have consented, Click may be about to take the money
    attempt = an_attempt(expires_at=datetime.now(UTC) + timedelta(hours=hours), status=session)
    said = bench.ask_about(attempt)
    assert (said.status, said.provider_payment_id, said.error_code) == (status, None, None)


def test_an_answer_404_is_not_known(click: ClickSimulator, bench: Bench) -> None:
    click.faults.extend([Fault(status=404)] * 3)
    assert bench.ask_about(an_attempt()).status == "pending"
    assert len(click.received) == 3


def test_an_attempt_without_a_link_is_pending_unasked(click: ClickSimulator, bench: Bench) -> None:
    assert bench.ask_about(an_attempt(provider_session_id=None)).status == "pending"
    assert click.received == []


def test_a_payment_that_click_forgets_between_two_questions_is_not_known(click: ClickSimulator, bench: Bench) -> None:
    attempt = an_attempt()
    a_payment(click, attempt)
    gone = b'{"error_code": -1, "error_note": "gone"}'
    click.faults.extend([Fault(), Fault(garbled=True, body=gone)])
    assert bench.ask_about(attempt).status == "pending"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[1]", b"null", b'"x"', b"{}", b'{"error_code": "0"}', b'{"error_code": null}',
        b'{"error_code": 0, "payment_id": {}}', b'{"error_code": 0, "payment_id": "x"}',
        b'{"error_code": 0, "payment_id": 1e300}', b'{"error_code": 0, "payment_id": true}',
        b'{"error_code": 0, "payment_id": 7, "merchant_trans_id": "somebody-elses"}', b"[" * 100_000,
        b'{"error_code": 0, "payment_id": ' + b"9" * 5000 + b"}", b"\xff\xfe",
    ],
    ids=lambda body: ascii(body[:45]),
)  # fmt: skip
def test_an_answer_of_another_shape_is_no_answer(click: ClickSimulator, bench: Bench, body: bytes) -> None:
    click.faults.append(Fault(garbled=True, body=body))
    with pytest.raises(ProviderUnavailable):
        bench.ask_about(an_attempt())


def test_the_status_of_another_payment_is_no_answer(click: ClickSimulator, bench: Bench) -> None:
    attempt = an_attempt()
    a_payment(click, attempt)
    other = b'{"error_code": 0, "error_note": "", "payment_id": 1, "payment_status": 2}'
    click.faults.extend([Fault(), Fault(garbled=True, body=other)])
    with pytest.raises(ProviderUnavailable):
        bench.ask_about(attempt)


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=502), Fault(status=429), Fault(lost=True)])
def test_a_question_is_repeated(click: ClickSimulator, bench: Bench, fault: Fault) -> None:
    attempt = an_attempt()
    a_payment(click, attempt)
    click.faults.extend([fault, fault])
    assert bench.ask_about(attempt).status == "completed"


@pytest.mark.parametrize(
    "fault", [Fault(status=502, headers={"Stripe-Should-Retry": "false"}), Fault(status=503), Fault(cut=True)]
)
def test_a_question_that_nobody_answers_may_be_asked_later(click: ClickSimulator, bench: Bench, fault: Fault) -> None:
    click.faults.extend([fault] * 3)
    with pytest.raises(ProviderUnavailable):
        bench.ask_about(an_attempt())


@pytest.mark.parametrize(
    ("status", "setting"), [(401, "SECRET_KEY"), (403, "SECRET_KEY"), (400, "SERVICE_ID"), (410, "")]
)
def test_a_question_that_is_refused_names_the_setting(
    click: ClickSimulator, bench: Bench, status: int, setting: str
) -> None:
    click.faults.append(Fault(status=status))
    with pytest.raises(ProviderRefused) as refused:
        bench.ask_about(an_attempt())
    assert setting in refused.value.hint
    assert len(click.received) == 1


def test_a_wrong_key_is_refused(click: ClickSimulator) -> None:
    with AdapterBench(Click, click.settings(), click_secret_key="wrong") as bench, pytest.raises(ProviderRefused):
        bench.ask_about(an_attempt())


# the header


@pytest.mark.parametrize("vector", VECTORS["merchant_auth"], ids=lambda vector: str(vector["timestamp"]))
def test_the_header_is_the_recorded_one(
    click: ClickSimulator, monkeypatch: pytest.MonkeyPatch, vector: dict[str, Any]
) -> None:
    user, secret, at = vector["merchant_user_id"], vector["secret_key"], vector["timestamp"]
    assert f"Auth: {auth_header(user, secret, at)}" == vector["header"]
    with AdapterBench(Click, click.settings(), click_merchant_user_id=user, click_secret_key=secret) as bench:
        monkeypatch.setattr("bridge.providers.click.time.time", lambda: at + 0.9)
        with contextlib.suppress(ProviderRefused):  # by an account that has another key
            bench.ask_about(an_attempt())
    headers = click.received[0].headers
    assert f"Auth: {headers['auth']}" == vector["header"]
    assert (headers["accept"], headers["content-type"]) == ("application/json", "application/json")


def test_each_request_is_signed_anew(click: ClickSimulator, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    clock = iter(range(100))
    monkeypatch.setattr("bridge.providers.click.time.time", lambda: now + next(clock))
    bench.ask_about(an_attempt())
    assert len({request.headers["auth"] for request in click.received}) == 3


# giving back


@pytest.fixture
def paid(click: ClickSimulator) -> tuple[Attempt, Payment]:
    attempt = an_attempt()
    payment = a_payment(click, attempt)
    return an_attempt(reference=attempt.reference, provider_payment_id=str(payment.id), status="completed"), payment


FULL = RefundOrder(key="refund-1", amount=PRICE, in_full=True, reason="unhappy")
PART = RefundOrder(key="refund-2", amount=1_000_050, in_full=False)
Paid = tuple[Attempt, Payment]


def test_all_of_it_is_reversed(click: ClickSimulator, bench: Bench, paid: Paid) -> None:
    attempt, payment = paid
    assert bench.refund(attempt, FULL) == Refund(
        provider_refund_id="refund-1", amount=PRICE, status="succeeded", reason="unhappy"
    )
    assert paths(click) == [f"DELETE reversal/73438/{payment.id}"]
    assert payment.returned == [PRICE]


def test_a_part_is_reversed_in_soums(click: ClickSimulator, bench: Bench, paid: Paid) -> None:
    attempt, payment = paid
    assert bench.refund(attempt, PART) == Refund(provider_refund_id="refund-2", amount=1_000_050, status="succeeded")
    assert paths(click) == [f"DELETE partial_reversal/73438/{payment.id}/10000.50"]
    rest = RefundOrder(key="refund-3", amount=PRICE - 1_000_050, in_full=False)
    bench.refund(attempt, rest)
    assert payment.returned == [1_000_050, PRICE - 1_000_050]


@pytest.mark.parametrize("order", [FULL, PART], ids=["full", "part"])
def test_a_refused_reversal_says_what_click_says(
    click: ClickSimulator, bench: Bench, paid: Paid, order: RefundOrder
) -> None:
    attempt, payment = paid
    click.refuses = "UZCARD: operation is not permitted"
    with pytest.raises(ProviderRefused, match=r"-5019.*UZCARD: operation is not permitted") as refused:
        bench.refund(attempt, order)
    assert "month" in refused.value.hint
    assert payment.returned == []


def test_more_than_is_left_is_refused(bench: Bench, paid: Paid) -> None:
    with pytest.raises(ProviderRefused, match="incorrect amount"):
        bench.refund(paid[0], RefundOrder(key="refund-4", amount=PRICE + 1, in_full=False))


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=True), Fault(garbled=True, body=b"<html>")])
def test_a_full_reversal_whose_answer_was_lost_is_known_by_its_status(
    click: ClickSimulator, bench: Bench, paid: Paid, fault: Fault
) -> None:
    attempt, payment = paid
    click.faults.append(fault)
    assert bench.refund(attempt, FULL).status == "succeeded"
    assert paths(click) == [f"DELETE reversal/73438/{payment.id}", f"GET status/73438/{payment.id}"]
    assert payment.returned == [PRICE]


def test_the_same_full_order_again_gives_nothing_back_a_second_time(
    click: ClickSimulator, bench: Bench, paid: Paid
) -> None:
    attempt, payment = paid
    assert bench.refund(attempt, FULL) == bench.refund(attempt, FULL)
    assert payment.returned == [PRICE]


def test_a_part_of_what_was_reversed_in_full_is_refused(bench: Bench, paid: Paid) -> None:
    attempt, payment = paid
    bench.refund(attempt, FULL)
    with pytest.raises(ProviderRefused):
        bench.refund(attempt, PART)
    assert payment.returned == [PRICE]


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=502), Fault(latency=1.5, status=500)])
def test_a_full_reversal_that_has_not_happened_yet_is_in_doubt(
    click: ClickSimulator, bench: Bench, paid: Paid, fault: Fault
) -> None:
    attempt, payment = paid
    click.faults.append(fault)
    with pytest.raises(RefundInDoubt):
        bench.refund(attempt, FULL)
    assert payment.returned == []


@pytest.mark.parametrize(
    "then",
    [[Fault(status=500)] * 3, [Fault(garbled=True, body=b"{}")], [Fault(status=401)], [Fault(status=404)],
     [Fault(garbled=True, body=b'{"error_code": -1}')]],
    ids=["down", "garbled", "refused", "not found", "unknown"],
)  # fmt: skip
def test_a_full_reversal_that_nobody_can_tell_of_is_in_doubt(
    click: ClickSimulator, bench: Bench, paid: Paid, then: list[Fault]
) -> None:
    click.faults.extend([Fault(lost=True), *then])
    with pytest.raises(RefundInDoubt):
        bench.refund(paid[0], FULL)


@pytest.mark.parametrize("status", [CREATED, BEING_PROCESSED])
def test_a_status_between_paid_and_undone_tells_nothing(
    click: ClickSimulator, bench: Bench, paid: Paid, status: int
) -> None:
    attempt, payment = paid
    payment.status = status
    click.faults.append(Fault(status=500))
    with pytest.raises(RefundInDoubt):
        bench.refund(attempt, FULL)


@pytest.mark.parametrize(
    "fault",
    [Fault(lost=True), Fault(cut=True), Fault(status=500), Fault(status=502), Fault(garbled=True, body=b"[]"),
     Fault(garbled=True, body=b'{"error_code": "0"}'), Fault(garbled=True, body=b"[" * 100_000), Fault(latency=1.5)],
    ids=["lost", "cut", "500", "502", "list", "text", "deep", "slow"],
)  # fmt: skip
def test_a_part_whose_answer_was_lost_is_in_doubt_and_sent_once(
    click: ClickSimulator, bench: Bench, paid: Paid, fault: Fault
) -> None:
    attempt, payment = paid
    click.faults.append(fault)
    with pytest.raises(RefundInDoubt) as doubt:
        bench.refund(attempt, PART)
    assert "cabinet" in doubt.value.hint
    assert paths(click) == [f"DELETE partial_reversal/73438/{payment.id}/10000.50"]


@pytest.mark.parametrize("order", [FULL, PART], ids=["full", "part"])
@pytest.mark.parametrize("setting", ["nobody listens", "too many"])
def test_what_click_has_not_seen_may_be_ordered_again(
    click: ClickSimulator, paid: Paid, order: RefundOrder, setting: str
) -> None:
    attempt, payment = paid
    away: dict[str, Any] = {"click_api_url": "http://127.0.0.1:9/v2/merchant"} if setting == "nobody listens" else {}
    click.faults.append(Fault(status=429))
    with AdapterBench(Click, click.settings(), **away) as bench, pytest.raises(ProviderUnavailable):
        bench.refund(attempt, order)
    assert payment.returned == []


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize("order", [FULL, PART], ids=["full", "part"])
def test_a_reversal_that_is_refused_by_http_is_refused(
    click: ClickSimulator, bench: Bench, paid: Paid, order: RefundOrder, status: int
) -> None:
    click.faults.append(Fault(status=status))
    with pytest.raises(ProviderRefused, match=str(status)):
        bench.refund(paid[0], order)


def test_only_what_was_paid_can_be_given_back(bench: Bench) -> None:
    with pytest.raises(ValueError, match="paid"):
        bench.refund(an_attempt(), FULL)


# secrets


def test_no_secret_is_in_any_error_or_log(
    click: ClickSimulator, bench: Bench, paid: Paid, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors = []
    for status in (400, 401, 500):
        click.faults.extend([Fault(status=status)] * 4)
        for deed in (lambda: bench.ask_about(an_attempt()), lambda: bench.refund(paid[0], PART)):
            with pytest.raises(ProviderError) as refused:
                deed()
            errors.append(str(vars(refused.value)))
        click.faults.clear()
    said = caplog.text + str(errors)
    assert ClickSimulator.secret not in said
    for request in click.received:
        assert request.headers["auth"].split(":")[1] not in said


# the simulator


def test_the_simulator_asks_before_it_debits_and_signs_what_it_sends(click: ClickSimulator, bench: Bench) -> None:
    """What the other tests stand on: one purchase, with a merchant that answers like the bridge."""
    page = bench.open_page(an_attempt(provider_session_id=None)).url
    heard: list[Any] = []

    def tell(delivery: Delivery) -> httpx.Response:
        heard.append(bench.read_delivery(delivery).outcome)
        return httpx.Response(200, json={"error": 0, "error_note": "Success", "merchant_prepare_id": 7})

    (complete,) = click.buyer_pays(page, tell)
    assert (heard[0].status, heard[0].amount, click.taken(page)) == ("processing", PRICE, PRICE)
    outcome = bench.read_delivery(complete).outcome
    assert outcome is not None
    assert (outcome.status, outcome.provider_session_id) == ("completed", "7")
    (declined,) = click.buyer_is_declined(page, tell)
    outcome = bench.read_delivery(declined).outcome
    assert outcome is not None
    assert (outcome.status, outcome.error_code, click.taken(page)) == ("failed", "-5017", PRICE)


@pytest.mark.parametrize(("code", "debited", "sent"), [(-9, False, 1), (-2, False, 1), (-7, False, 1), (-4, True, 0)])
def test_the_simulator_keeps_to_the_answer(
    click: ClickSimulator, bench: Bench, code: int, debited: bool, sent: int
) -> None:
    page = bench.open_page(an_attempt()).url
    news = click.buyer_pays(page, lambda _: httpx.Response(200, json={"error": code, "error_note": ""}), amount=100)
    assert (click.taken(page), len(news)) == (100 if debited else 0, sent)
    assert all(bench.read_delivery(one).ignored for one in news)  # nothing was prepared


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(500, json={"error": 0, "error_note": ""}), httpx.Response(200, json={"error": "0"}),
     httpx.Response(200, json={"error": 0, "error_note": "", "merchant_prepare_id": "7"}),
     httpx.Response(200, json={"error": 0, "error_note": "", "merchant_prepare_id": 2**31})],
    ids=["500", "text", "text id", "large id"],
)  # fmt: skip
def test_the_simulator_does_not_debit_on_an_answer_that_click_cannot_read(
    click: ClickSimulator, bench: Bench, answer: httpx.Response
) -> None:
    page = bench.open_page(an_attempt()).url
    with pytest.raises(AssertionError):
        click.buyer_pays(page, lambda _: answer)
    assert click.taken(page) == 0
