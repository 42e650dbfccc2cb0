"""HyPay's two signatures, and what a return may not contain: vectors (some are Hyp's own), and everything else."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InvalidRequest, SignatureInvalid
from bridge.providers.hypay import HyPay, request_signature, verify_return
from bridge.settings import load_settings
from bridge.simulators.hypay import SIGNED, encoded, sign_return

VECTORS = json.loads((Path(__file__).parent / "vectors" / "hypay.json").read_text())
KEY = "0123456789abcdef0123456789abcdef01234567"
VALUES = {
    "Id": "90000001", "CCode": "0", "Amount": "25", "ACode": "0099887", "Order": "0" * 31 + "1",
    "Fild1": "Dana Levi", "Fild2": "dana@example.test", "Fild3": "0501234567",
}  # fmt: skip
VISA = "4580458045804580"


def signed(key: str = KEY, **changes: str | bytes) -> str:
    """A return with these values, really signed."""
    values: dict[str, str | bytes] = {**VALUES, **changes}
    pairs = [f"{name}={encoded(value)}" for name, value in values.items()]
    return "&".join([*pairs, f"Sign={sign_return(key, values)}", "Coin=1", "errMsg=%20(0)"])


def genuine(query: str, key: str = KEY) -> bool:
    """Any exception but SignatureInvalid fails the test."""
    try:
        verify_return(key, query)
    except SignatureInvalid:
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS["requests"], ids=lambda vector: vector["name"])
def test_a_request_has_the_recorded_signature(vector: dict[str, Any]) -> None:
    assert request_signature(vector["KEY"], vector["params"]) == vector["signature"]
    assert vector["published_signature"] in (None, vector["signature"])


@pytest.mark.parametrize("vector", VECTORS["returns"], ids=lambda vector: vector["name"])
def test_a_return_is_judged_as_recorded(vector: dict[str, Any]) -> None:
    assert genuine(vector["raw_query_as_received"], vector["KEY"]) is vector["expect_valid"]


def test_the_vectors_include_examples_of_hyp_itself_and_forgeries() -> None:
    assert sum(vector["published_signature"] is not None for vector in VECTORS["requests"]) == 2
    assert sum(vector["published_sign"] is not None for vector in VECTORS["returns"]) == 2
    assert {vector["expect_valid"] for vector in VECTORS["returns"]} == {True, False}


def test_credentials_are_no_part_of_a_signed_request() -> None:
    page = {"Amount": "25.00", "action": "pay"}
    secret = {"KEY": KEY, "PassP": "p", "What": "SIGN", "signature": "0" * 64}
    assert request_signature(KEY, {**page, **secret}) == request_signature(KEY, page)
    assert request_signature(KEY, {"b": "1", "B": "2", "a": "3"}) == request_signature(
        KEY, {"a": "3", "B": "2", "b": "1"}
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.text(st.characters(max_codepoint=127)))
def test_a_signed_return_is_genuine_and_any_other_key_s_is_not(name: str, email: str) -> None:
    query = signed(Fild1=name, Fild2=email)
    assert genuine(query)
    assert not genuine(query, KEY[::-1])


@given(st.sampled_from(SIGNED), st.text("0123456789abc .", min_size=1, max_size=12))
def test_no_signed_field_can_be_changed(name: str, value: str) -> None:
    sign = sign_return(KEY, VALUES)
    forged = {**VALUES, name: value}
    query = "&".join([*(f"{field}={encoded(text)}" for field, text in forged.items()), f"Sign={sign}"])
    assert genuine(query) is (forged == VALUES)


@pytest.mark.parametrize("name", SIGNED)
def test_no_signed_field_can_be_left_out(name: str) -> None:
    parts = [part for part in signed().split("&") if not part.startswith(f"{name}=")]
    assert not genuine("&".join(parts))


@pytest.mark.parametrize("sign", ["", "0" * 64, "%00", "é", sign_return(KEY, VALUES)[:-1]])
def test_what_is_no_signature_is_refused(sign: str) -> None:
    query = signed().replace(sign_return(KEY, VALUES), sign)
    assert not genuine(query)
    assert not genuine(query.replace(f"Sign={sign}&", ""))


def test_the_signature_may_be_in_capitals() -> None:
    sign = sign_return(KEY, VALUES)
    assert genuine(signed().replace(sign, sign.upper()))


HEBREW = "דנה לוי"


@pytest.mark.parametrize("signs_in", ["utf-8", "cp1255"])
@pytest.mark.parametrize("sends_in", ["utf-8", "cp1255"])
def test_both_charsets_are_understood_whatever_happened_on_the_way(signs_in: str, sends_in: str) -> None:
    query = signed(Fild1=HEBREW.encode(signs_in))
    sent = query.replace(encoded(HEBREW.encode(signs_in)), encoded(HEBREW.encode(sends_in)))
    assert genuine(sent)
    # raw bytes in a form: our route reads them as latin-1
    raw = query.replace(encoded(HEBREW.encode(signs_in)), HEBREW.encode(sends_in).decode("latin-1"))
    assert genuine(raw)
    assert not genuine(sent.replace("Amount=25", "Amount=24"))


@given(st.binary(max_size=20))
def test_bytes_of_no_charset_are_signed_as_they_are(name: bytes) -> None:
    assert genuine(signed(Fild1=name))


def test_a_plus_is_a_space_or_itself() -> None:
    assert genuine(signed().replace("Dana%20Levi", "Dana+Levi"))
    query = signed(Fild2="dana+shop@example.test")
    assert genuine(query)
    assert genuine(query.replace("%2B", "+"))


def test_a_standing_order_signs_its_id_too() -> None:
    message = "&".join(f"{name}={encoded(value)}" for name, value in {"HKId": "77", **VALUES}.items())
    sign = hmac.new(KEY.encode(), message.encode(), hashlib.sha256).hexdigest()
    assert genuine(f"{message}&Sign={sign}")
    assert not genuine(f"{message.replace('HKId=77', 'HKId=78')}&Sign={sign}")
    assert not genuine(f"HKId=77&{signed()}")


# what a return may not contain


def refused(query: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        verify_return(KEY, query)
    assert caught.value.__cause__ is None
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "more", ["Amount=1", "amount=1", "AMOUNT=1", "%41mount=1", "Amount[]=1", "+Amount=1", "Order="]
)
def test_a_name_twice_is_refused(more: str) -> None:
    assert "twice" in refused(f"{signed()}&{more}")
    assert "twice" in refused(f"{more}&{signed()}")


@pytest.mark.parametrize(
    "more",
    [
        "CC=1",
        "cardnumber=4580",
        "Card_Number=4580",
        "cvv=123",
        "CVV2=123",
        f"Token={VISA}",
        f"Tokef={VISA}",
        f"note=%20{VISA}",
        "note=4580-4580-4580-4580",
        "note=4580+4580+4580+4580",
        "note=5105105105105100",
        "note=378282246310005",
        "note=4222222222222",
        "note=6304000000000000000",
    ],
)
def test_card_data_is_refused_and_not_repeated(more: str) -> None:
    said = refused(f"{signed()}&{more}")
    assert "card data" in said
    assert more.partition("=")[2] not in said


@pytest.mark.parametrize(
    "more",
    [
        "cvv=",
        "L4digit=4580",
        "Tokef=2903",
        "note=4580458045804581",
        "note=0000000000000",
        "note=458045804580",
        f"UID={VISA}",
        f"cell={VISA}",
        f"note=1{VISA}{VISA}",
    ],
)
def test_what_is_no_card_data_is_let_through(more: str) -> None:
    assert genuine(f"{signed()}&{more}")


@pytest.mark.parametrize("name", ["Id", "ACode", "Order", "Fild3"])
def test_an_id_or_telephone_number_that_looks_like_a_card_s_costs_nobody_a_payment(name: str) -> None:
    assert genuine(signed(**{name: VISA}))


def test_a_return_of_unlikely_length_is_not_read() -> None:
    assert genuine(f"{signed()}&note={'x' * 7000}")
    assert "too long" in refused(f"{signed()}&note={'x' * 8000}")


ADAPTER = HyPay(
    load_settings(
        _env_file=None, hypay_terminal="0010000001", hypay_api_key=KEY, hypay_api_password="pass of the bench"
    ),
    httpx.AsyncClient(),
)
pieces = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30).map(quote),
    st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")),
    st.sampled_from([*SIGNED, "Sign", "=", "&", "%", "%0", "%00", "+", "Order=", "CC=", "\ud800", "\0", "#", "KEY=x"]),
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_no_query_surprises(query: str) -> None:
    try:
        named = ADAPTER.read_return(query)
    except InvalidRequest:
        return
    assert named.provider_session_id is None
    assert named.reference is None or isinstance(named.reference, str)
    assert not genuine(query)
