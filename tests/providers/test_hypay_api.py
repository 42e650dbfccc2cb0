"""HyPay as the adapter uses it: pages, returns that HyPay confirms, refunds, and everything that can go wrong."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.errors import (
    InvalidRequest,
    NotSupported,
    PgcheckoutError,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RefundInDoubt,
    SignatureInvalid,
)
from bridge.providers.hypay import HyPay, request_signature
from bridge.simulators.hypay import Fault, HyPaySimulator, encoded, sign_return
from bridge.values import Attempt, Named, Refund, RefundOrder
from tests.providers.bench import AdapterBench, new_attempt

Bench = AdapterBench[HyPay]
BUSY = {
    "an error page": Fault(garbled=True, body=b"<html>System error</html>"),
    "CCode 9": Fault(garbled=True, body=b"CCode=9"),
    "CCode 999": Fault(garbled=True, body=b"CCode=999&errMsg=%f9"),
    "HTTP 503": Fault(status=503),
    "a lost answer": Fault(lost=True),
    "half an answer": Fault(cut=True),
}
busy = pytest.mark.parametrize("fault", BUSY.values(), ids=BUSY)


@pytest.fixture(scope="module")
def hypay_server() -> Iterator[HyPaySimulator]:
    with HyPaySimulator() as server:
        yield server


@pytest.fixture
def hypay(hypay_server: HyPaySimulator) -> HyPaySimulator:
    hypay_server.faults.clear()
    hypay_server.received.clear()
    hypay_server.signs_failures = hypay_server.allows_voids = hypay_server.verifies_pages = True
    return hypay_server


@pytest.fixture(scope="module")
def bench(hypay_server: HyPaySimulator) -> Iterator[Bench]:
    with AdapterBench(HyPay, hypay_server.settings()) as bench:
        yield bench


def attempt_of(**changes: Any) -> Attempt:
    return new_attempt(**{"provider": "hypay", "currency": "ILS", **changes})


def tell(_: object) -> httpx.Response:
    raise AssertionError("HyPay tells nobody anything")


def opened(bench: Bench, **changes: Any) -> tuple[Attempt, str]:
    attempt = attempt_of(**changes)
    return attempt, bench.open_page(attempt).url


def paid(bench: Bench, hypay: HyPaySimulator, **changes: Any) -> tuple[Attempt, str]:
    """An attempt that was paid, and the query of its return."""
    attempt, page = opened(bench, **changes)
    hypay.buyer_pays(page, tell)
    hypay.received.clear()
    return attempt, hypay.return_query(page)


# opening a page


def test_hypay_is_asked_to_sign_exactly_this(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt = attempt_of(product_name="100 credits & more")
    page = bench.open_page(attempt)
    (request,) = hypay.received
    assert (request.method, request.path, request.body) == ("GET", "/p/", b"")
    assert request.values == {
        "action": "APISign",
        "What": "SIGN",
        "KEY": hypay.key,
        "PassP": hypay.password,
        "Masof": hypay.terminal,
        "Order": attempt.reference,
        "Info": f"100 credits more {attempt.reference}",
        "Amount": "25.00",
        "Coin": "1",
        "ClientName": "Customer",
        "UserId": "000000000",
        "Tash": "1",
        "FixTash": "True",
        "PageLang": "HEB",
        "Sign": "True",
        "MoreData": "True",
        "UTF8": "True",
        "UTF8out": "True",
        "pageTimeOut": "True",
    }
    assert page.provider_session_id == attempt.reference


def test_the_page_is_what_hypay_signed_and_shows_no_credentials(hypay: HyPaySimulator, bench: Bench) -> None:
    _, page = opened(bench)
    address, _, query = page.partition("?")
    assert address == f"{hypay.url}/p/"
    shown = dict(parse_qsl(query, keep_blank_values=True))
    assert shown.pop("signature") == request_signature(hypay.key, shown)
    asked = hypay.received[0].values
    assert shown == {name: asked[name] for name in asked.keys() - {"What", "KEY", "PassP"}} | {"action": "pay"}


def test_nothing_of_the_user_reaches_hypay(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, _ = opened(bench)
    said = unquote(hypay.received[0].query)
    for thing in (attempt.email, attempt.user_id, attempt.session_id, attempt.product_id):
        assert str(thing) not in said


def test_asking_again_gives_the_same_page(bench: Bench) -> None:
    attempt = attempt_of()
    first, second = bench.open_page(attempt), bench.open_page(attempt)
    assert (first.url, first.provider_session_id) == (second.url, second.provider_session_id)


@pytest.mark.parametrize(("minutes", "lives"), [(120, 20), (21, 20), (20, 20), (7, 7)])
def test_a_page_lives_no_longer_than_hypay_s_time_out(bench: Bench, minutes: int, lives: int) -> None:
    now = datetime.now(UTC)
    page = bench.open_page(attempt_of(expires_at=now + timedelta(minutes=minutes)))
    assert page.expires_at is not None
    assert abs(page.expires_at - now - timedelta(minutes=lives)) < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("amount", "currency", "said"),
    [
        (1, "ILS", ("0.01", "1")),
        (1900, "USD", ("19.00", "2")),
        (105, "EUR", ("1.05", "3")),
        (10**9 + 1, "GBP", ("10000000.01", "4")),
    ],
)
def test_amount_and_currency_are_hypay_s(
    hypay: HyPaySimulator, bench: Bench, amount: int, currency: str, said: tuple[str, str]
) -> None:
    opened(bench, amount=amount, currency=currency)
    asked = hypay.received[0].values
    assert (asked["Amount"], asked["Coin"]) == said


def test_another_currency_is_refused_without_asking(hypay: HyPaySimulator, bench: Bench) -> None:
    with pytest.raises(ProviderRefused, match="JPY") as caught:
        opened(bench, currency="JPY")
    assert caught.value.hint == "It takes: EUR, GBP, ILS, USD."
    assert not hypay.received


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("#1: 50% more? a+b=c & co", "1: 50 more a b c co"),
        ("  a\tb\n\x00c\x7f\u202e\ud800d  ", "a b c d"),
        ("מאה קרדיטים", "מאה קרדיטים"),
        ("&&&", ""),
        ("", ""),
        ("x" * 500, "x" * 80),
    ],
)
def test_a_product_s_name_breaks_nothing(hypay: HyPaySimulator, bench: Bench, name: str, shown: str) -> None:
    attempt, page = opened(bench, product_name=name)
    assert hypay.received[0].values["Info"] == f"{shown} {attempt.reference}".strip()
    assert page.isascii()
    assert len(page) < 2000
    hypay.buyer_pays(page, tell)
    assert hypay.taken(page) == 2500


def test_the_page_may_be_english(hypay: HyPaySimulator) -> None:
    with AdapterBench(HyPay, hypay.settings(), hypay_page_language="ENG") as bench:
        opened(bench)
    assert hypay.received[0].values["PageLang"] == "ENG"


@pytest.mark.parametrize("setting", ["hypay_terminal", "hypay_api_key", "hypay_api_password"])
def test_wrong_credentials_are_named(hypay: HyPaySimulator, setting: str) -> None:
    with (
        AdapterBench(HyPay, {**hypay.settings(), setting: "0010009999"}) as bench,
        pytest.raises(ProviderRefused, match="CCode 902") as caught,
    ):
        opened(bench)
    assert f"PGCHECKOUT_{setting.upper()}" in caught.value.hint
    assert len(hypay.received) == 1


@pytest.mark.parametrize(("code", "hint"), [(401, "name"), (402, "Info"), (901, "allow"), (905, "table of CCodes")])
def test_a_refusal_gives_the_code_and_a_remedy(hypay: HyPaySimulator, bench: Bench, code: int, hint: str) -> None:
    hypay.faults.append(Fault(garbled=True, body=b"CCode=%d&errMsg=4580458045804580" % code))
    with pytest.raises(ProviderRefused, match=f"CCode {code}") as caught:
        opened(bench)
    assert hint in caught.value.hint
    assert "4580" not in f"{caught.value.message} {caught.value.hint}"


@busy
def test_opening_survives_trouble_that_passes(hypay: HyPaySimulator, bench: Bench, fault: Fault) -> None:
    hypay.faults.extend([fault] * 2)
    _, page = opened(bench)
    assert page
    assert len(hypay.received) == 3


@busy
def test_opening_gives_up_on_trouble_that_stays(hypay: HyPaySimulator, bench: Bench, fault: Fault) -> None:
    hypay.faults.extend([fault] * 9)
    with pytest.raises(ProviderUnavailable):
        opened(bench)
    assert len(hypay.received) == 3


def bent(page: str, **changes: str) -> bytes:
    """HyPay's answer with other values, rightly signed where a key is given as ``sign_with``."""
    key = changes.pop("sign_with", "")
    values = dict(parse_qsl(page.partition("?")[2], keep_blank_values=True)) | changes
    if key:
        values["signature"] = request_signature(key, values)
    return "&".join(f"{name}={encoded(value)}" for name, value in values.items()).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"Amount": "2.50"},
        {"Amount": ""},
        {"Order": "0" * 32},
        {"Coin": "2"},
        {"Masof": "0010000000"},
        {"Sign": "False"},
        {"action": "soft"},
        {"KEY": "leaked"},
        {"PassP": "leaked"},
    ],
    ids=str,
)
def test_a_page_that_is_not_ours_is_not_shown(hypay: HyPaySimulator, bench: Bench, changes: dict[str, str]) -> None:
    attempt, page = opened(bench)
    hypay.faults.append(Fault(garbled=True, body=bent(page, sign_with=hypay.key, **changes)))
    with pytest.raises(ProviderUnavailable):
        bench.open_page(attempt)


def test_a_page_whose_signature_we_could_not_check_is_not_shown(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    for body in (bent(page, signature="0" * 64), bent(page, Tash="12"), bent(page, sign_with="another key")):
        hypay.faults.append(Fault(garbled=True, body=body))
        with pytest.raises(ProviderRefused, match="signature"):
            bench.open_page(attempt)


def test_a_terminal_that_does_not_verify_pages_opens_none(hypay: HyPaySimulator, bench: Bench) -> None:
    hypay.verifies_pages = False
    with pytest.raises(ProviderRefused, match="did not sign") as caught:
        opened(bench)
    assert "Verify by signature in the payment page" in caught.value.hint


def test_another_spelling_of_the_amount_is_the_same_page(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    hypay.faults.append(Fault(garbled=True, body=bent(page, Amount="25", sign_with=hypay.key) + b"\r\n"))
    assert "&Amount=25&" in bench.open_page(attempt).url.replace("?", "&")


@given(body=st.one_of(st.binary(max_size=60), st.sampled_from([b"", b"<", b"signature=1", b"CCode=x", b"\xff=%ff"])))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_answer_surprises(hypay: HyPaySimulator, bench: Bench, body: bytes) -> None:
    hypay.faults.clear()
    attempt, returned = paid(bench, hypay)
    hypay.faults.extend([Fault(garbled=True, body=body)] * 3)
    with pytest.raises(ProviderError):
        bench.open_page(attempt)
    hypay.faults.clear()
    hypay.faults.extend([Fault(garbled=True, body=body)] * 3)
    with pytest.raises(ProviderError):
        bench.ask_about(attempt, returned=returned)
    hypay.faults.clear()
    hypay.faults.append(Fault(garbled=True, body=body))
    with pytest.raises(RefundInDoubt):
        bench.refund(paid_attempt(attempt), order(100))


@pytest.mark.parametrize("status", [302, 403, 404])
def test_an_http_error_is_final(hypay: HyPaySimulator, bench: Bench, status: int) -> None:
    hypay.faults.append(Fault(status=status))
    with pytest.raises(ProviderRefused, match=f"HTTP {status}"):
        opened(bench)


def test_a_page_cannot_be_closed_and_there_are_no_webhooks(bench: Bench) -> None:
    with pytest.raises(NotSupported, match="cannot close"):
        bench.close_page("0" * 32)
    with pytest.raises(NotSupported, match="no webhooks"):
        bench.read_delivery(({}, b"{}"))


# a buyer comes back


def test_a_return_names_its_attempt(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, returned = paid(bench, hypay)
    assert bench.adapter.read_return(returned) == Named(reference=attempt.reference)
    assert bench.adapter.read_return("") == Named()
    assert bench.adapter.read_return("order=lower") == Named()
    assert not hypay.received


def test_a_confirmed_return_is_a_payment(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, returned = paid(bench, hypay)
    outcome = bench.ask_about(attempt, "return", returned=returned)
    assert outcome.to_json() == {
        "provider": "hypay",
        "status": "completed",
        "source": "return",
        "reference": attempt.reference,
        "session_id": None,
        "provider_session_id": attempt.reference,
        "provider_payment_id": dict(parse_qsl(returned))["Id"],
        "amount": 2500,
        "currency": "ILS",
        "paid_at": None,
        "provider_customer_id": None,
        "refunds": (),
        "disputed": False,
        "error_code": None,
        "error_message": None,
    }


def test_hypay_is_asked_about_the_query_byte_for_byte(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, returned = paid(bench, hypay)
    returned = returned.replace("%D7", "%d7").replace("%20(0)", "%20%280)") + "&&strange=%zz&more=a/b?c|d"
    bench.ask_about(attempt, returned=returned)
    (request,) = hypay.received
    head = f"action=APISign&What=VERIFY&KEY={hypay.key}&PassP={encoded(hypay.password)}&Masof={hypay.terminal}&"
    assert request.query == head + returned.replace("&&", "&")


@pytest.mark.parametrize(
    "name",
    ["action", "ACTION", "What", "what", "Masof", "MASOF", "KEY", "key", "PassP", "passp", "%4BEY", "KEY[]", "+KEY"],
)
def test_nobody_can_steer_our_question(hypay: HyPaySimulator, bench: Bench, name: str) -> None:
    attempt, returned = paid(bench, hypay)
    assert bench.ask_about(attempt, returned=f"{name}=evil&{returned}").status == "completed"
    assert "evil" not in hypay.received[0].query
    assert hypay.received[0].query.endswith(f"Masof={hypay.terminal}&{returned}")


@pytest.mark.parametrize("charset", ["utf-8", "cp1255"])
def test_hebrew_names_come_in_either_charset_and_form(charset: str) -> None:
    with HyPaySimulator(charset=charset) as hypay, AdapterBench(HyPay, hypay.settings()) as bench:
        attempt, returned = paid(bench, hypay)
        name = encoded("דנה לוי".encode(charset))
        assert name in returned
        # percent-encoded in a query; with + in a form; and raw in a form, whose bytes our route reads as latin-1
        raw = returned.replace(name, "דנה לוי".encode(charset).decode("latin-1"))
        for query in (returned, returned.replace("%20", "+"), raw):
            assert bench.ask_about(attempt, returned=query).status == "completed"


def test_without_a_return_hypay_cannot_be_asked(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, _ = paid(bench, hypay)
    with pytest.raises(NotSupported, match="only the buyer's return tells"):
        bench.ask_about(attempt)
    assert not hypay.received


CODES = {
    0: "completed", 700: "processing", 800: "processing", 600: "failed", 998: "cancelled", 4: "failed", 6: "failed",
    33: "failed", 447: "failed", 902: "failed", 9: "pending", 999: "pending",
}  # fmt: skip


@pytest.mark.parametrize(("code", "status"), CODES.items())
def test_each_ccode_has_its_meaning(hypay: HyPaySimulator, bench: Bench, code: int, status: str) -> None:
    attempt, page = opened(bench)
    outcome = bench.ask_about(attempt, "return", returned=hypay.buyer_ends(page, code))
    assert outcome.status == status
    assert outcome.reference == outcome.provider_session_id == attempt.reference
    money = status in ("completed", "processing")
    assert (outcome.provider_payment_id is not None, outcome.amount) == (money, 2500 if money else None)
    assert outcome.error_code == (None if money else str(code))
    assert bool(outcome.error_message) is not money


def test_failures_say_what_failed(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    said = {
        code: bench.ask_about(attempt, returned=hypay.buyer_ends(page, code)).error_message for code in (4, 600, 998)
    }
    assert said == {
        4: "The payment failed (CCode 4).",
        600: "The card was only checked, not charged.",
        998: "The payment was cancelled.",
    }


def test_a_failure_that_is_not_signed_changes_nothing(hypay: HyPaySimulator, bench: Bench) -> None:
    hypay.signs_failures = False
    attempt, page = opened(bench)
    hypay.received.clear()
    for code in (4, 998):
        outcome = bench.ask_about(attempt, returned=hypay.buyer_ends(page, code))
        assert (outcome.status, outcome.error_code) == ("pending", None)
    assert not hypay.received


def test_money_that_is_not_signed_is_nobody_s(hypay: HyPaySimulator, bench: Bench) -> None:
    for code in (0, 700, 800):
        attempt, page = opened(bench)
        returned = hypay.buyer_ends(page, code)
        parts = [part for part in returned.split("&") if not part.startswith("Sign=")]
        for forged in ("&".join(parts), "&".join([*parts, "Sign="])):
            with pytest.raises(SignatureInvalid):
                bench.ask_about(attempt, returned=forged)


def test_a_declined_buyer_can_still_pay_on_the_page(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    hypay.buyer_is_declined(page, tell)
    assert bench.ask_about(attempt, returned=hypay.return_query(page)).status == "failed"
    hypay.buyer_pays(page, tell)
    assert bench.ask_about(attempt, returned=hypay.return_query(page)).status == "completed"


FORGERIES: dict[str, Callable[[str], str]] = {
    "more money": lambda query: query.replace("Amount=25", "Amount=26"),
    "the amount spelt otherwise": lambda query: query.replace("Amount=25", "Amount=25.00"),
    "another payment": lambda query: query.replace("Id=9", "Id=8"),
    "another result": lambda query: query.replace("CCode=0", "CCode=00"),
    "another name": lambda query: query.replace("Fild1=%D7", "Fild1=%D8"),
    "another currency": lambda query: query.replace("Coin=1", "Coin=2"),
    "no signature": lambda query: query.replace("Sign=", "Sing="),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_refused_without_asking_hypay(
    hypay: HyPaySimulator, bench: Bench, forge: Callable[[str], str]
) -> None:
    attempt, returned = paid(bench, hypay)
    assert forge(returned) != returned
    with pytest.raises(SignatureInvalid):
        bench.ask_about(attempt, returned=forge(returned))
    assert not hypay.received


def test_another_attempt_s_return_is_refused(hypay: HyPaySimulator, bench: Bench) -> None:
    _, returned = paid(bench, hypay)
    for reference in ("0" * 32, None):
        with pytest.raises(SignatureInvalid, match="another payment"):
            bench.ask_about(attempt_of(reference=reference), returned=returned)
    with pytest.raises(SignatureInvalid, match="another payment"):
        bench.ask_about(attempt_of(reference=None), returned="CCode=0")
    assert not hypay.received


def test_what_somebody_else_signed_is_refused(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    hypay.buyer_pays(page, tell)
    (transaction,) = (known for known in hypay.transactions.values() if known.order == attempt.reference)
    with pytest.raises(SignatureInvalid):
        bench.ask_about(attempt, returned=hypay.return_of(transaction, key="another terminal's key"))


def test_hypay_has_the_last_word_on_a_signature(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, returned = paid(bench, hypay)
    hypay.faults.append(Fault(garbled=True, body=b"CCode=902"))
    with pytest.raises(ProviderRefused, match="902") as caught:
        bench.ask_about(attempt, returned=returned)
    assert "PGCHECKOUT_HYPAY_API_PASSWORD" in caught.value.hint
    hypay.faults.append(Fault(garbled=True, body=b"CCode=901"))
    with pytest.raises(ProviderRefused, match="901"):
        bench.ask_about(attempt, returned=returned)


def test_the_currency_is_ours_where_the_return_names_none(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, returned = paid(bench, hypay, currency="EUR")
    for query in (returned, returned.replace("&Coin=3", ""), returned.replace("Coin=3", "Coin=978")):
        assert bench.ask_about(attempt, returned=query).currency == "EUR"


def test_a_payment_in_another_currency_is_refused(hypay: HyPaySimulator, bench: Bench) -> None:
    attempt, page = opened(bench)
    hypay.buyer_pays(page, tell, currency="USD")
    with pytest.raises(SignatureInvalid, match="currency"):
        bench.ask_about(attempt, returned=hypay.return_query(page))


@pytest.mark.parametrize("amount", [1, 2499, 2501, 10**6])
def test_another_amount_is_told_as_it_is(hypay: HyPaySimulator, bench: Bench, amount: int) -> None:
    attempt, page = opened(bench)
    hypay.buyer_pays(page, tell, amount=amount)
    outcome = bench.ask_about(attempt, returned=hypay.return_query(page))
    assert (outcome.status, outcome.amount) == ("completed", amount)


def resigned(hypay: HyPaySimulator, returned: str, **changes: str) -> str:
    values = dict(parse_qsl(returned, keep_blank_values=True)) | changes
    values["Sign"] = sign_return(hypay.key, values)
    return "&".join(f"{name}={encoded(value)}" for name, value in values.items())


@pytest.mark.parametrize(
    ("text", "amount"),
    [("25", 2500), ("25.0", 2500), ("25.00", 2500), ("0025", 2500), ("25.", 2500), ("24.999", 2499), ("0", 0)],
)
def test_an_amount_is_read_exactly(hypay: HyPaySimulator, bench: Bench, text: str, amount: int) -> None:
    attempt, returned = paid(bench, hypay)
    assert bench.ask_about(attempt, returned=resigned(hypay, returned, Amount=text)).amount == amount


@pytest.mark.parametrize(
    "changes",
    [
        *({"Amount": text} for text in ("", "25,00", "-25", "1e3", "NaN", "٢٥", "25 ", "9" * 13)),
        *({"Id": text} for text in ("", "0x1", "1 2", "٢٥", "9" * 31)),
        *({"CCode": text} for text in ("", "x", "-1", "\u0660", "00000")),
    ],
    ids=str,
)
def test_a_genuine_return_that_makes_no_sense_is_refused(
    hypay: HyPaySimulator, bench: Bench, changes: dict[str, str]
) -> None:
    attempt, returned = paid(bench, hypay)
    with pytest.raises(InvalidRequest):
        bench.ask_about(attempt, returned=resigned(hypay, returned, **changes))


@given(st.integers(0, 10**11))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_amounts_go_out_and_come_back_the_same(hypay: HyPaySimulator, bench: Bench, amount: int) -> None:
    hypay.received.clear()
    attempt, page = opened(bench, amount=amount)
    assert Decimal(hypay.received[0].values["Amount"]) * 100 == amount
    hypay.buyer_pays(page, tell)
    assert bench.ask_about(attempt, returned=hypay.return_query(page)).amount == amount


@busy
def test_a_return_survives_trouble_that_passes(hypay: HyPaySimulator, bench: Bench, fault: Fault) -> None:
    attempt, returned = paid(bench, hypay)
    hypay.faults.extend([fault] * 2)
    assert bench.ask_about(attempt, returned=returned).status == "completed"


@busy
def test_a_return_gives_up_on_trouble_that_stays(hypay: HyPaySimulator, bench: Bench, fault: Fault) -> None:
    attempt, returned = paid(bench, hypay)
    hypay.faults.extend([fault] * 3)
    with pytest.raises(ProviderUnavailable):
        bench.ask_about(attempt, returned=returned)


@pytest.mark.parametrize("more", ["Amount=1", "amount=1", "CCode=0", "cvv=123", "note=4580458045804580"])
def test_a_return_that_cannot_be_hypay_s_is_not_passed_on(hypay: HyPaySimulator, bench: Bench, more: str) -> None:
    attempt, returned = paid(bench, hypay)
    with pytest.raises(InvalidRequest):
        bench.ask_about(attempt, returned=f"{returned}&{more}")
    with pytest.raises(InvalidRequest):
        bench.adapter.read_return(f"{returned}&{more}")
    assert not hypay.received


@given(st.binary(max_size=40), st.integers(0, 300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_return_surprises(hypay: HyPaySimulator, bench: Bench, noise: bytes, place: int) -> None:
    attempt, returned = paid(bench, hypay)
    bent = returned[:place] + noise.decode("latin-1") + returned[place:]
    try:
        assert bench.ask_about(attempt, returned=bent).status in ("completed", "pending")
    except PgcheckoutError as error:
        assert isinstance(error, SignatureInvalid | InvalidRequest)  # noqa: PT017 - both ways out are fine


# giving money back


def order(amount: int, *, in_full: bool = False) -> RefundOrder:
    return RefundOrder(key="pgcheckout-1", amount=amount, in_full=in_full, reason="asked for")


def paid_attempt(attempt: Attempt, payment: str = "90000000") -> Attempt:
    return attempt_of(reference=attempt.reference, status="completed", provider_payment_id=payment)


@pytest.fixture
def bought(hypay: HyPaySimulator, bench: Bench) -> tuple[Attempt, str]:
    """A paid attempt and its page."""
    attempt, page = opened(bench)
    hypay.buyer_pays(page, tell)
    payment = bench.ask_about(attempt, returned=hypay.return_query(page)).provider_payment_id
    hypay.received.clear()
    return paid_attempt(attempt, str(payment)), page


def actions(hypay: HyPaySimulator) -> list[str]:
    return [request.values["action"] for request in hypay.received]


def test_all_of_it_is_cancelled_while_that_is_possible(
    hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str]
) -> None:
    attempt, page = bought
    refund = bench.refund(attempt, order(2500, in_full=True))
    assert refund == Refund(
        provider_refund_id=f"cancel-{attempt.provider_payment_id}", amount=2500, status="succeeded", reason="asked for"
    )
    assert [request.values for request in hypay.received] == [
        {
            "action": "CancelTrans",
            "PassP": hypay.password,
            "Masof": hypay.terminal,
            "TransId": attempt.provider_payment_id,
        }
    ]
    assert hypay.given_back(page) == 2500


@pytest.mark.parametrize("why", ["too late", "not allowed"])
def test_all_of_it_is_refunded_when_it_cannot_be_cancelled(
    hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str], why: str
) -> None:
    attempt, page = bought
    if why == "too late":
        hypay.day_ends()
    hypay.allows_voids = why == "too late"
    refund = bench.refund(attempt, order(2500, in_full=True))
    assert actions(hypay) == ["CancelTrans", "zikoyAPI"]
    assert hypay.transactions[str(attempt.provider_payment_id)].refunds == {refund.provider_refund_id: 2500}
    assert (hypay.given_back(page), refund.amount, refund.status) == (2500, 2500, "succeeded")


def test_parts_are_refunded(hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str]) -> None:
    attempt, page = bought
    first, second = bench.refund(attempt, order(1001)), bench.refund(attempt, order(9))
    assert (first.amount, second.amount, hypay.given_back(page)) == (1001, 9, 1010)
    assert first.provider_refund_id != second.provider_refund_id
    assert hypay.received[0].values == {
        "action": "zikoyAPI",
        "PassP": hypay.password,
        "Masof": hypay.terminal,
        "TransId": attempt.provider_payment_id,
        "Amount": "10.01",
        "UTF8": "True",
        "UTF8out": "True",
    }


def test_more_than_is_left_is_refused(hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str]) -> None:
    attempt, page = bought
    with pytest.raises(ProviderRefused, match="CCode 33") as caught:
        bench.refund(attempt, order(2501))
    assert "more than" in caught.value.hint
    assert hypay.given_back(page) == 0


def test_an_unknown_payment_is_refused(hypay: HyPaySimulator, bench: Bench) -> None:
    with pytest.raises(ProviderRefused, match="CCode 250"):
        bench.refund(paid_attempt(attempt_of(), "1"), order(2500, in_full=True))
    assert actions(hypay) == ["CancelTrans", "zikoyAPI"]


def test_wrong_credentials_give_nothing_back(hypay: HyPaySimulator, bought: tuple[Attempt, str]) -> None:
    with (
        AdapterBench(HyPay, hypay.settings(), hypay_api_password="wrong") as bench,
        pytest.raises(ProviderRefused, match="CCode 902") as caught,
    ):
        bench.refund(bought[0], order(2500, in_full=True))
    assert "PGCHECKOUT_HYPAY_API_PASSWORD" in caught.value.hint
    assert actions(hypay) == ["CancelTrans"]


IN_DOUBT = BUSY | {
    "HTTP 500": Fault(status=500),
    "nonsense": Fault(garbled=True, body=b"\xff\xfe"),
    "nothing": Fault(garbled=True, body=b""),
}


@pytest.mark.parametrize("in_full", [True, False])
@pytest.mark.parametrize("fault", IN_DOUBT.values(), ids=IN_DOUBT)
def test_a_lost_answer_leaves_a_refund_in_doubt_and_is_not_repeated(
    hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str], fault: Fault, in_full: bool
) -> None:
    hypay.faults.append(fault)
    with pytest.raises(RefundInDoubt) as caught:
        bench.refund(bought[0], order(2500 if in_full else 100, in_full=in_full))
    assert "portal" in caught.value.hint
    assert len(hypay.received) == 1


def test_a_slow_answer_is_a_lost_one(hypay: HyPaySimulator, bought: tuple[Attempt, str]) -> None:
    hypay.faults.append(Fault(latency=0.6))
    with AdapterBench(HyPay, hypay.settings(), timeout=0.2) as bench, pytest.raises(RefundInDoubt, match="ReadTimeout"):
        bench.refund(bought[0], order(100))


def test_a_lost_answer_to_the_refund_after_a_late_void_is_in_doubt(
    hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str]
) -> None:
    hypay.day_ends()
    hypay.faults.extend([Fault(), Fault(lost=True)])
    with pytest.raises(RefundInDoubt):
        bench.refund(bought[0], order(2500, in_full=True))
    assert hypay.given_back(bought[1]) == 2500


def test_a_refund_without_an_id_is_in_doubt(hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str]) -> None:
    hypay.faults.append(Fault(garbled=True, body=b"CCode=0&Id="))
    with pytest.raises(RefundInDoubt, match="which id"):
        bench.refund(bought[0], order(100))


@pytest.mark.parametrize("status", [409, 429])
def test_an_order_that_was_not_taken_up_can_be_repeated(
    hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str], status: int
) -> None:
    hypay.faults.append(Fault(status=status))
    with pytest.raises(ProviderUnavailable):
        bench.refund(bought[0], order(100))
    assert bench.refund(bought[0], order(100)).amount == 100


@pytest.mark.parametrize("status", [302, 403])
def test_an_order_that_hypay_s_gate_refuses_is_refused(
    hypay: HyPaySimulator, bench: Bench, bought: tuple[Attempt, str], status: int
) -> None:
    hypay.faults.append(Fault(status=status))
    with pytest.raises(ProviderRefused, match=f"HTTP {status}"):
        bench.refund(bought[0], order(100))


def nowhere() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/p/"


def test_an_order_that_never_left_can_be_repeated(hypay: HyPaySimulator, bought: tuple[Attempt, str]) -> None:
    with (
        AdapterBench(HyPay, hypay.settings(), hypay_url=nowhere()) as bench,
        pytest.raises(ProviderUnavailable, match="ConnectError"),
    ):
        bench.refund(bought[0], order(2500, in_full=True))


# secrets


def test_credentials_and_buyers_are_in_no_log_and_no_error(
    hypay: HyPaySimulator, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):  # which the bridge silences
        caplog.set_level(logging.DEBUG, logger=name)
    told: list[str] = []

    def note(deed: Callable[[], object]) -> None:
        try:
            told.append(repr(deed()).replace(str(hypay.terminal), ""))
        except PgcheckoutError as error:
            told.append("".join(traceback.format_exception(error)))
            told.append(f"{error!r} {error.hint} {error.__cause__!r}")

    attempt, returned = paid(bench, hypay)
    deeds: list[Callable[[], object]] = [
        lambda: bench.open_page(attempt_of()),
        lambda: bench.ask_about(attempt, returned=returned),
        lambda: bench.refund(paid_attempt(attempt), order(100)),
    ]
    faults = [Fault(), Fault(status=403), Fault(garbled=True, body=b"CCode=902"), *BUSY.values()]
    for deed in deeds:
        for fault in faults:
            hypay.faults.clear()
            hypay.faults.extend([fault] * 3)
            note(deed)
    hypay.faults.clear()
    note(lambda: bench.ask_about(attempt, returned=returned.replace("Amount=25", "Amount=24")))
    with_card = f"{returned}&cvv=98765&note=4580458045804580"
    note(lambda: bench.ask_about(attempt, returned=with_card))
    with AdapterBench(HyPay, hypay.settings(), hypay_url=nowhere()) as away:
        note(lambda: away.open_page(attempt_of()))
        note(lambda: away.ask_about(attempt, returned=returned))
        note(lambda: away.refund(paid_attempt(attempt), order(100)))
    assert "HTTP Request: GET" in caplog.text  # httpx did log, and so did httpcore
    assert "send_request_headers" in caplog.text
    # the simulated HyPay logs its requests in this process too
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]
    everything = unquote("\n".join([*told, *map(logging.Formatter().format, ours)]))
    name, email, phone = hypay.buyer
    for secret in (hypay.key, hypay.password, name, email, phone, "98765", "4580458045804580"):
        assert secret not in everything, secret
    values = dict(parse_qsl(returned))
    assert values["Sign"] not in everything
