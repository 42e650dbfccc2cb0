"""Prepare and Complete as Click sends them: form, signature, meaning, and the answer that Click reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import (
    AttemptNotFound,
    DatabaseUnavailable,
    InvalidRequest,
    NotSupported,
    PaymentReused,
    PgcheckoutError,
    PriceMismatch,
    SessionExpired,
    SessionNotFound,
    SessionNotPending,
    SignatureInvalid,
    SourceRefused,
    TryAgain,
)
from bridge.providers.click import NOTES, Click, sign_message
from bridge.simulators.base import Delivery, Json
from bridge.simulators.click import ClickSimulator, sign_form
from bridge.values import Applied, Attempt, Handled, Named, Notification
from tests.providers.bench import AdapterBench, new_attempt

VECTORS = json.loads((Path(__file__).parent / "vectors" / "click.json").read_text())
REFERENCE = "0193a5c0ffee7e57a5c0ffee00000001"

PREPARE: Json = {
    "click_trans_id": "3647147957",
    "service_id": ClickSimulator.service_id,
    "click_paydoc_id": "16853761",
    "merchant_trans_id": REFERENCE,
    "amount": "25000.00",
    "action": "0",
    "error": "0",
    "error_note": "Success",
    "sign_time": "2026-11-20 14:05:09",
}
COMPLETE: Json = {**PREPARE, "action": "1", "merchant_prepare_id": "7"}
BOTH = pytest.mark.parametrize("message", [PREPARE, COMPLETE], ids=["prepare", "complete"])

account = ClickSimulator()  # signs; nothing here is sent
account.url = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def bench() -> Iterator[AdapterBench[Click]]:
    with AdapterBench(Click, account.settings()) as bench:
        yield bench


def signed(form: Json, **changes: str | None) -> Delivery:
    """As Click sends it; None takes a parameter away after it was signed."""
    changed = {**form, **{name: value for name, value in changes.items() if value is not None}}
    headers, body = account.delivery(changed)
    gone = [name for name, value in changes.items() if value is None]
    kept = [(name, value) for name, value in parse_qsl(body.decode(), keep_blank_values=True) if name not in gone]
    return headers, urlencode(kept).encode()


def event_of(bench: AdapterBench[Click], delivery: Delivery) -> Any:
    return bench.run(bench.adapter.read_event(*delivery))


def refusal(bench: AdapterBench[Click], delivery: Delivery) -> tuple[type[PgcheckoutError], Any]:
    """Why it is not read, and the code with which Click is told so."""
    with pytest.raises(PgcheckoutError) as refused:
        event_of(bench, delivery)
    return type(refused.value), bench.adapter.reply(delivery[1], refused.value)["error"]


# the signature


@pytest.mark.parametrize("vector", VECTORS["shop"], ids=lambda vector: vector["name"])
def test_a_vector_is_judged_as_recorded(vector: dict[str, Any]) -> None:
    settings = {
        **account.settings(),
        "click_service_id": vector["form"]["service_id"],
        "click_secret_key": vector["secret_key"],
    }
    assert sign_message(vector["form"], vector["secret_key"]) == vector["expected_md5"]
    assert sign_form(vector["form"], vector["secret_key"]) == vector["expected_md5"]
    with AdapterBench(Click, settings) as bench:
        delivery: Delivery = ({}, vector["form_urlencoded"].encode())
        if vector["expect_valid"]:
            assert event_of(bench, delivery).payload["merchant_trans_id"] == "sess-0001"
        else:
            assert refusal(bench, delivery) == (SignatureInvalid, -1)


def test_the_vectors_include_forgeries() -> None:
    assert {vector["expect_valid"] for vector in VECTORS["shop"]} == {True, False}


@BOTH
@pytest.mark.parametrize("amount", ["25000", "25000.0", "25000.00", "25000.000", "38400.5"])
def test_the_amount_is_hashed_as_it_was_written(bench: AdapterBench[Click], message: Json, amount: str) -> None:
    assert event_of(bench, signed(message, amount=amount)).payload["amount"] == amount


@BOTH
def test_a_signature_in_capitals_is_the_same(bench: AdapterBench[Click], message: Json) -> None:
    headers, body = signed(message)
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    event_of(bench, (headers, urlencode({**form, "sign_string": form["sign_string"].upper()}).encode()))


@pytest.mark.parametrize(
    "name", ["click_trans_id", "service_id", "merchant_trans_id", "merchant_prepare_id", "amount", "sign_time"]
)
def test_every_signed_value_counts(bench: AdapterBench[Click], name: str) -> None:
    form = dict(parse_qsl(signed(COMPLETE)[1].decode(), keep_blank_values=True))
    bent = form[name][:-1] + ("1" if form[name][-1] != "1" else "2")
    assert refusal(bench, ({}, urlencode({**form, name: bent}).encode())) == (SignatureInvalid, -1)


@BOTH
@pytest.mark.parametrize("forgery", ["0" * 32, "x", "é", "\0", "\u017f" * 32])
def test_what_is_no_signature_is_refused(bench: AdapterBench[Click], message: Json, forgery: str) -> None:
    body = urlencode({**message, "sign_string": forgery}).encode()
    assert refusal(bench, ({}, body)) == (SignatureInvalid, -1)


@BOTH
def test_another_key_signs_nothing(bench: AdapterBench[Click], message: Json) -> None:
    assert refusal(bench, account.forged(signed(message))) == (SignatureInvalid, -1)


def test_a_complete_signed_like_a_prepare_is_refused(bench: AdapterBench[Click]) -> None:
    without = {**COMPLETE, "merchant_prepare_id": ""}
    body = urlencode({**COMPLETE, "sign_string": sign_form(without, account.secret)}).encode()
    assert refusal(bench, ({}, body)) == (SignatureInvalid, -1)


def test_the_prepare_id_is_no_part_of_a_prepares_signature(bench: AdapterBench[Click]) -> None:
    for prepare_id in ("", "7", "none"):
        assert event_of(bench, signed({**PREPARE, "merchant_prepare_id": prepare_id})).type == "prepare"


def test_bytes_that_are_no_text_are_hashed_as_they_came(bench: AdapterBench[Click]) -> None:
    raw = b"\xff\xfe\x00caf\xe9"
    text = b"3647147957" + b"73438" + account.secret.encode() + raw + b"25000.00" + b"0" + b"2026-11-20 14:05:09"
    form = {**PREPARE, "sign_string": hashlib.md5(text, usedforsecurity=False).hexdigest()}
    body = urlencode({name: value for name, value in form.items() if name != "merchant_trans_id"}).encode()
    event = event_of(bench, ({}, body + b"&merchant_trans_id=" + quote(raw).encode()))
    assert event.payload["merchant_trans_id"] == "???caf?"  # as Postgres can keep it: no order has such a name


# the form, and the order in which it is judged


@pytest.mark.parametrize("name", [*PREPARE.keys() - {"error_note"}, "sign_string"])
@BOTH
def test_a_missing_parameter_is_an_error_in_the_request(bench: AdapterBench[Click], message: Json, name: str) -> None:
    assert refusal(bench, signed(message, **{name: None})) == (InvalidRequest, -8)


def test_a_note_is_not_needed(bench: AdapterBench[Click]) -> None:
    assert event_of(bench, signed(PREPARE, error_note=None)).type == "prepare"


@pytest.mark.parametrize("prepare_id", ["", "x", "-1", "7.0", "\u0667", "9" * 19])
def test_a_debit_needs_its_prepare_id(bench: AdapterBench[Click], prepare_id: str) -> None:
    assert refusal(bench, signed(COMPLETE, merchant_prepare_id=prepare_id)) == (InvalidRequest, -8)


@pytest.mark.parametrize("prepare_id", ["x", "-1", "7.0", "\u0667", "9" * 19])
def test_so_does_a_cancellation_that_names_one(bench: AdapterBench[Click], prepare_id: str) -> None:
    form = {**COMPLETE, "error": "-1", "merchant_prepare_id": prepare_id}
    assert refusal(bench, signed(form)) == (InvalidRequest, -8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("click_trans_id", "12x"), ("click_trans_id", "-1"), ("click_trans_id", "9" * 5000), ("service_id", "abc"),
        ("click_paydoc_id", "1e6"), ("click_paydoc_id", "\u0667"), ("merchant_trans_id", ""),
        ("merchant_trans_id", "a" * 201),
        ("amount", "-25000.00"), ("amount", "1e5"), ("amount", "25000,00"), ("amount", "25 000"), ("amount", "NaN"),
        ("amount", "25000.005"), ("amount", "9" * 14), ("amount", "25000.00\n"), ("amount", ".5"), ("amount", "5."),
        ("action", "zero"), ("action", "0.0"), ("error", "none"), ("error", "1"), ("error", "-0"), ("error", "00"),
        ("sign_time", "soon"), ("sign_time", "2026-13-01 00:00:00"), ("sign_time", "2026-02-30 00:00:00"),
        ("sign_time", "0001-01-01 00:00:00"), ("sign_time", "2026-11-20T14:05:09"),
    ],
)  # fmt: skip
def test_an_ill_formed_parameter_is_an_error_in_the_request(bench: AdapterBench[Click], name: str, value: str) -> None:
    assert refusal(bench, signed(PREPARE, **{name: value})) == (InvalidRequest, -8)


@pytest.mark.parametrize("name", [*COMPLETE, "sign_string"])
def test_a_name_that_comes_twice_is_refused_even_with_the_same_value(bench: AdapterBench[Click], name: str) -> None:
    _, body = signed(COMPLETE)
    (again,) = [part for part in body.split(b"&") if part.startswith(name.encode() + b"=")]
    assert refusal(bench, ({}, body + b"&" + again)) == (InvalidRequest, -8)


def test_a_form_without_end_is_refused_even_when_it_is_signed(bench: AdapterBench[Click]) -> None:
    assert refusal(bench, signed({**COMPLETE, **{f"p{number}": "" for number in range(100)}})) == (InvalidRequest, -8)


def test_the_form_is_judged_before_the_signature_the_signature_before_the_service_and_that_before_the_action(
    bench: AdapterBench[Click],
) -> None:
    everything = {"amount": "x", "sign_string": "x", "service_id": "1", "action": "2"}
    forms = [
        {**PREPARE, **everything},
        {**PREPARE, **everything, "amount": "1"},
        {**PREPARE, "service_id": "1", "action": "2"},
        {**PREPARE, "action": "2"},
    ]
    bodies = [urlencode(forms[0]).encode(), urlencode(forms[1]).encode(), signed(forms[2])[1], signed(forms[3])[1]]
    assert [refusal(bench, ({}, body)) for body in bodies] == [
        (InvalidRequest, -8), (SignatureInvalid, -1), (InvalidRequest, -8), (NotSupported, -3)
    ]  # fmt: skip


def test_another_service_is_refused_by_name(bench: AdapterBench[Click]) -> None:
    with pytest.raises(InvalidRequest, match="another service"):
        event_of(bench, signed(PREPARE, service_id="73439"))


@pytest.mark.parametrize("action", ["2", "-1", "00", "01", "10"])
def test_other_actions_are_not_found(bench: AdapterBench[Click], action: str) -> None:
    assert refusal(bench, signed(PREPARE, action=action)) == (NotSupported, -3)


# what is kept


def test_the_signature_and_what_is_not_documented_are_not_kept(bench: AdapterBench[Click]) -> None:
    event = event_of(bench, signed({**COMPLETE, "phone": "998901234567", "buyer": "A Name"}))
    assert event.payload == COMPLETE
    assert sign_form(COMPLETE, account.secret) not in json.dumps(event.to_json())


def test_the_same_message_has_the_same_id_and_another_verdict_another(bench: AdapterBench[Click]) -> None:
    ids = [
        event_of(bench, signed(form)).id
        for form in (
            PREPARE, COMPLETE, {**COMPLETE, "error": "-5017"}, {**COMPLETE, "click_trans_id": "3647147958"},
            {**COMPLETE, "merchant_trans_id": "0" * 32},
        )
    ]  # fmt: skip
    assert len(set(ids)) == 5
    assert event_of(bench, signed({**COMPLETE, "sign_time": "2026-11-20 14:09:00", "error_note": "again"})).id == ids[1]
    assert event_of(bench, signed(PREPARE)).id == ids[0]


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_every_event_can_be_stored(bench: AdapterBench[Click], text: str) -> None:
    raw = text.encode(errors="surrogatepass")
    known = b"3647147957" + b"73438" + account.secret.encode() + raw + b"25000.00" + b"0" + b"2026-11-20 14:05:09"
    form = {**PREPARE, "sign_string": hashlib.md5(known, usedforsecurity=False).hexdigest()}
    del form["merchant_trans_id"]
    body = urlencode(form).encode() + b"&merchant_trans_id=" + quote(raw).encode()
    if not 1 <= len(raw.decode(errors="surrogateescape")) <= 200:
        assert refusal(bench, ({}, body)) == (InvalidRequest, -8)
        return
    event = event_of(bench, ({}, body))
    assert 1 <= len(event.id) <= 255
    stored = json.dumps(event.to_json(), ensure_ascii=False).encode()
    assert b"\\u0000" not in stored


# what it means


def read(bench: AdapterBench[Click], form: Json, **changes: str) -> Notification:
    return bench.read_delivery(signed(form, **changes))


def test_a_prepare_asks_before_any_money_moves(bench: AdapterBench[Click]) -> None:
    said = read(bench, PREPARE)
    assert said.asks
    assert said.ours
    assert said.outcome is not None
    assert (said.outcome.status, said.outcome.source, said.outcome.reference) == ("processing", "webhook", REFERENCE)
    assert (said.outcome.amount, said.outcome.currency) == (2_500_000, "UZS")
    assert (said.outcome.provider_payment_id, said.outcome.provider_session_id) == ("16853761", None)


def test_a_prepare_that_click_gave_up_before_it_began_asks_for_nothing(bench: AdapterBench[Click]) -> None:
    said = read(bench, PREPARE, error="-1")
    assert (said.asks, said.outcome) == (False, None)
    assert said.ignored
    reply = bench.adapter.reply(signed(PREPARE, error="-1")[1], Handled(result="ignored", reason=said.ignored))
    assert reply["error"] == -9


def test_a_complete_proves_the_money(bench: AdapterBench[Click]) -> None:
    said = read(bench, COMPLETE)
    assert not said.asks
    assert said.not_if == ("failed",)
    assert said.outcome is not None
    assert (said.outcome.status, said.outcome.reference) == ("completed", REFERENCE)
    assert (said.outcome.amount, said.outcome.currency) == (2_500_000, "UZS")
    assert (said.outcome.provider_payment_id, said.outcome.provider_session_id) == ("16853761", "7")
    assert said.outcome.paid_at == datetime(2026, 11, 20, 9, 5, 9, tzinfo=UTC)  # 14:05:09 in Tashkent


def test_a_time_that_is_still_to_come_is_not_believed(bench: AdapterBench[Click]) -> None:
    tomorrow = datetime.now(timezone(timedelta(hours=5))) + timedelta(days=2)
    said = read(bench, COMPLETE, sign_time=tomorrow.strftime("%Y-%m-%d %H:%M:%S"))
    assert said.outcome is not None
    assert said.outcome.paid_at is not None
    assert said.outcome.paid_at <= datetime.now(UTC)


@pytest.mark.parametrize("error", ["-1", "-5017", "-9", "-999999999"])
def test_a_negative_complete_is_a_failure(bench: AdapterBench[Click], error: str) -> None:
    said = read(bench, COMPLETE, error=error, error_note="Insufficient funds")
    assert said.outcome is not None
    assert (said.outcome.status, said.outcome.error_code) == ("failed", error)
    assert said.outcome.error_message == "Insufficient funds"
    assert (said.outcome.provider_session_id, said.not_if) == ("7", ())


@pytest.mark.parametrize("prepare_id", ["", None])
def test_giving_up_what_nobody_consented_to_is_ignored(bench: AdapterBench[Click], prepare_id: str | None) -> None:
    form = {**COMPLETE, "error": "-1", "merchant_prepare_id": ""}
    said = bench.read_delivery(signed(form, **({"merchant_prepare_id": None} if prepare_id is None else {})))
    assert said.outcome is None
    assert bench.adapter.reply(signed(form)[1], Handled(result="ignored", reason=said.ignored))["error"] == -9


@pytest.mark.parametrize(
    ("amount", "tiyin"),
    [("1000", 100_000), ("38400.5", 3_840_050), ("1000.00", 100_000), ("0.01", 1), ("1000.1000", 100_010),
     ("0.29", 29), ("9999999999999.99", 999_999_999_999_999), ("0", 0)],
)  # fmt: skip
def test_soums_become_tiyin_exactly(bench: AdapterBench[Click], amount: str, tiyin: int) -> None:
    said = read(bench, PREPARE, amount=amount).outcome
    assert said is not None
    assert said.amount == tiyin


@given(st.integers(1, 10**14))
def test_what_a_link_asks_for_is_what_a_prepare_says(bench: AdapterBench[Click], tiyin: int) -> None:
    link = account.read_link(bench.open_page(new_attempt(amount=tiyin, currency="UZS")).url)
    said = read(bench, PREPARE, amount=link["amount"]).outcome
    assert said is not None
    assert said.amount == tiyin


@pytest.mark.parametrize("name", ["click_paydoc_id", "merchant_prepare_id"])
def test_ids_are_numbers_however_they_are_written(bench: AdapterBench[Click], name: str) -> None:
    said = read(bench, COMPLETE, **{name: "00" + COMPLETE[name]}).outcome
    assert said is not None
    assert (said.provider_payment_id, said.provider_session_id) == ("16853761", "7")


# what Click is told


def attempt(status: str = "processing", payment: str | None = None) -> Attempt:
    return new_attempt(status=status, provider="click", currency="UZS", number=7, provider_payment_id=payment)


def done(status: str, **changes: Any) -> Handled:
    """An outcome that was applied, and the session after it."""
    before = changes.pop("before", "processing")
    applied = Applied(status=status, **changes)  # type: ignore[arg-type]  # any status
    return Handled(result="applied", attempt=attempt(before), applied=applied)


def repeated(before: str) -> Handled:
    return Handled(result="duplicate", attempt=attempt(before), applied=Applied(duplicate=True))


def told(bench: AdapterBench[Click], form: Json, result: Handled | PgcheckoutError) -> Json:
    answer = dict(bench.adapter.reply(signed(form)[1], result))
    assert answer["error_note"] == NOTES[answer["error"]]
    return answer


CANCEL = {**COMPLETE, "error": "-5017"}
MISMATCH = {"review_reason": "fulfilment_failed, amount_mismatch"}


def test_a_consent_names_the_attempt(bench: AdapterBench[Click]) -> None:
    assert told(bench, PREPARE, done("processing", before="pending")) == {
        "click_trans_id": 3647147957,
        "merchant_trans_id": REFERENCE,
        "merchant_prepare_id": 7,
        "error": 0,
        "error_note": "Success",
    }


def test_a_confirmation_repeats_the_prepare_id(bench: AdapterBench[Click]) -> None:
    assert told(bench, COMPLETE, done("completed")) == {
        "click_trans_id": 3647147957,
        "merchant_trans_id": REFERENCE,
        "merchant_confirm_id": 7,
        "error": 0,
        "error_note": "Success",
    }


def test_a_refusal_repeats_what_can_be_read_and_consents_to_nothing(bench: AdapterBench[Click]) -> None:
    assert told(bench, PREPARE, PriceMismatch("no")) == {
        "click_trans_id": 3647147957,
        "merchant_trans_id": REFERENCE,
        "error": -2,
        "error_note": "Incorrect parameter amount",
    }


@pytest.mark.parametrize(
    ("form", "result", "code"),
    [
        (COMPLETE, done("completed"), 0),
        (COMPLETE, done("completed", before="expired"), 0),
        (COMPLETE, done("completed", before="cancelled", review_reason="paid_twice"), 0),
        (COMPLETE, done("completed", review_reason="overpaid"), 0),
        (COMPLETE, done("partially_refunded", before="pending"), 0),
        (COMPLETE, Handled(result="applied", applied=Applied(review_reason="session_deleted")), 0),
        (COMPLETE, done("completed", already_completed=True), -4),
        (COMPLETE, done("completed", already_completed=True, before="completed"), -4),
        (COMPLETE, repeated("completed"), -4),
        (COMPLETE, repeated("refunded"), -4),
        (COMPLETE, repeated("processing"), -4),  # it ended while we looked
        (COMPLETE, done("failed", **MISMATCH), -2),
        (COMPLETE, done("failed"), -7),
        (COMPLETE, Handled(result="refused", reason="session_not_pending"), -9),
        (COMPLETE, Handled(result="refused", reason="session_not_pending", attempt=attempt("failed")), -9),
        (COMPLETE, Handled(result="refused", reason="price_mismatch"), -2),
        (COMPLETE, Handled(result="refused", reason="attempt_not_found"), -6),
        (COMPLETE, Handled(result="refused", reason="payment_reused"), -7),
        (COMPLETE, Handled(result="refused", reason="invalid_request"), -8),
        (CANCEL, done("failed"), -9),
        (CANCEL, done("cancelled", before="cancelled"), -9),
        (CANCEL, done("completed", already_completed=True, before="completed"), -4),
        (CANCEL, done("completed", already_completed=True), -4),
        (CANCEL, repeated("failed"), -9),
        (CANCEL, repeated("processing"), -9),
        (CANCEL, repeated("completed"), -4),
        (PREPARE, done("processing"), 0),
        (PREPARE, Handled(result="applied", attempt=attempt(), applied=Applied(duplicate=True)), 0),
        (PREPARE, Handled(result="refused", reason="session_expired", attempt=attempt("pending")), -9),
    ],
)
def test_each_result_has_its_code(
    bench: AdapterBench[Click], form: Json, result: Handled | PgcheckoutError, code: int
) -> None:
    assert told(bench, form, result)["error"] == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SignatureInvalid, -1), (PriceMismatch, -2), (NotSupported, -3), (SessionNotFound, -5), (AttemptNotFound, -6),
        (InvalidRequest, -8), (SessionNotPending, -9), (SessionExpired, -9), (DatabaseUnavailable, -7), (TryAgain, -7),
        (PaymentReused, -7), (PgcheckoutError, -7), (SourceRefused, -7),
    ],
)  # fmt: skip
@BOTH
def test_each_error_has_its_code(
    bench: AdapterBench[Click], message: Json, error: type[PgcheckoutError], code: int
) -> None:
    assert told(bench, message, error("secret words"))["error"] == code


@pytest.mark.parametrize(
    ("status", "payment", "code"),
    [
        ("completed", "16853761", -4), ("refunded", "16853761", -4), ("partially_refunded", "16853761", -4),
        ("completed", "16853762", -9), ("completed", None, -9), ("failed", "16853761", -9), ("cancelled", None, -9),
    ],
)  # fmt: skip
def test_already_paid_is_said_of_the_payment_that_paid_and_of_no_other(
    bench: AdapterBench[Click], status: str, payment: str | None, code: int
) -> None:
    result = Handled(result="refused", reason="session_not_pending", attempt=attempt(status, payment))
    assert told(bench, PREPARE, result)["error"] == code


def test_a_wrong_amount_is_one_even_for_the_payment_that_paid(bench: AdapterBench[Click]) -> None:
    result = Handled(result="refused", reason="price_mismatch", attempt=attempt("completed", "16853761"))
    assert told(bench, PREPARE, result)["error"] == -2


RESULTS: list[Handled | PgcheckoutError] = [
    InvalidRequest("x"), SignatureInvalid("x"), done("processing"), done("completed"), repeated("failed"),
    Handled(result="ignored"), Handled(result="refused", reason="session_not_pending", attempt=attempt("completed")),
    Handled(result="applied"), Handled(result="duplicate"), Handled(result="refused"),
]  # fmt: skip


@pytest.mark.parametrize("result", RESULTS, ids=range(len(RESULTS)))
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(st.sampled_from([*COMPLETE, "x"]), st.text(max_size=30)).map(
            lambda form: urlencode(form, errors="surrogatepass").encode()
        ),
        st.just(b"&".join(b"%d=1" % number for number in range(200))),
    )
)
def test_whatever_the_body_the_answer_is_json(
    bench: AdapterBench[Click], result: Handled | PgcheckoutError, body: bytes
) -> None:
    answer = bench.adapter.reply(body, result)
    said = json.loads(json.dumps(answer, ensure_ascii=False, allow_nan=False).encode())
    assert said["error"] in NOTES
    assert type(said.get("click_trans_id", 0)) is int


def test_bytes_that_are_no_text_are_repeated_as_far_as_json_goes(bench: AdapterBench[Click]) -> None:
    answer = bench.adapter.reply(
        b"merchant_trans_id=%ff%00%ed%a0%80&click_trans_id=" + b"9" * 5000, InvalidRequest("x")
    )
    assert json.loads(json.dumps(answer, ensure_ascii=False).encode()) == {
        "merchant_trans_id": "?????",
        "error": -8,
        "error_note": "Error in request from click",
    }


@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.lists(st.tuples(st.sampled_from([*COMPLETE, "sign_string", "x"]), st.text(max_size=20)), max_size=14).map(
            lambda pairs: urlencode(pairs, errors="surrogatepass").encode()
        ),
    )
)
def test_whatever_the_bytes_they_are_refused_by_an_error_of_ours(bench: AdapterBench[Click], body: bytes) -> None:
    assert refusal(bench, ({}, body))[1] in (-8, -1)


@given(data=st.data())
def test_a_genuine_message_with_one_wild_value_is_read_or_refused(
    bench: AdapterBench[Click], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*COMPLETE]))
    value = data.draw(
        st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.from_regex(r"-?\d{1,30}(\.\d+)?"))
    )
    delivery = signed(data.draw(st.sampled_from([PREPARE, COMPLETE])), **{name: value})
    with contextlib.suppress(InvalidRequest, NotSupported):
        bench.read_delivery(delivery)


def test_a_refusal_tells_no_secret_and_no_expected_signature(bench: AdapterBench[Click]) -> None:
    with pytest.raises(SignatureInvalid) as refused:
        event_of(bench, account.forged(signed(COMPLETE)))
    assert account.secret not in str(vars(refused.value))
    assert sign_form(COMPLETE, account.secret) not in str(vars(refused.value))


# the buyer comes back


@pytest.mark.parametrize(
    "query",
    [
        f"reference={REFERENCE}",
        f"reference={REFERENCE}&payment_id=1&payment_status=2",
        f"payment_status=2&reference={REFERENCE}",
        f"reference={REFERENCE}?payment_id=1&payment_status=2",
        f"reference={REFERENCE}&reference=other",
    ],
)
def test_the_return_names_the_attempt_whatever_click_adds(bench: AdapterBench[Click], query: str) -> None:
    assert bench.adapter.read_return(query).reference == REFERENCE


@pytest.mark.parametrize("query", ["", "reference=", "payment_id=1&payment_status=2", "?", "reference=?x"])
def test_a_return_without_our_parameter_names_nothing(bench: AdapterBench[Click], query: str) -> None:
    assert bench.adapter.read_return(query) == Named()


@given(st.text())
def test_no_return_is_a_surprise(bench: AdapterBench[Click], query: str) -> None:
    assert bench.adapter.read_return(query).provider_session_id is None
