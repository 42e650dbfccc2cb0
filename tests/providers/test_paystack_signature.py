"""Webhook signatures and amounts: vectors, every changed byte, and the currency that Paystack counts its own way."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ProviderRefused, SignatureInvalid
from bridge.providers.paystack import Paystack, from_paystack_amount, to_paystack_amount, verify_signature
from bridge.simulators.paystack import sign

VECTORS = json.loads((Path(__file__).parent / "vectors" / "paystack.json").read_text())
KEY, OLD_KEY = "sk_test_new", "sk_test_old"
BODY = b'{"event": "charge.success"}'

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)


def accepts(header: str, body: bytes = BODY, secrets: tuple[str, ...] = (KEY,)) -> bool:
    """Whether we accept; any exception but SignatureInvalid fails the test."""
    try:
        verify_signature(header, body, secrets)
    except SignatureInvalid:
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_is_judged_as_recorded(vector: dict[str, Any]) -> None:
    body = base64.b64decode(vector["body_b64"])
    assert accepts(vector["header_value"], body, (vector["secret_key"],)) is vector["expect_valid"]
    assert sign(body, vector["secret_key"]) == vector["expected_hex"]


def test_the_vectors_include_forgeries() -> None:
    assert {vector["expect_valid"] for vector in VECTORS} == {True, False}


@given(data=st.data(), body=st.binary(min_size=1, max_size=200), key=keys)
def test_one_changed_byte_is_noticed(data: st.DataObject, body: bytes, key: str) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[place] ^= data.draw(st.integers(1, 255))
    assert accepts(sign(body, key), body, (key,))
    assert not accepts(sign(body, key), bytes(changed), (key,))


@given(key=keys, other=keys)
def test_another_key_is_noticed(key: str, other: str) -> None:
    assert accepts(sign(BODY, key), secrets=(other,)) is (key == other)


def test_while_keys_roll_over_both_are_good() -> None:
    for key in (KEY, OLD_KEY):
        assert accepts(sign(BODY, key), secrets=(KEY, OLD_KEY))
        assert accepts(sign(BODY, key), secrets=(OLD_KEY, KEY))
    assert not accepts(sign(BODY, "sk_test_older"), secrets=(KEY, OLD_KEY))


def test_without_any_key_nothing_is_accepted() -> None:
    assert not accepts(sign(BODY, ""), secrets=())


GOOD = sign(BODY, KEY)


@pytest.mark.parametrize(
    "garbage",
    ["", " ", GOOD.upper(), GOOD[:-1], GOOD + "0", f" {GOOD}", f"sha512={GOOD}", f"{GOOD},{GOOD}", "0" * 128, "é" * 128,
     "\0", "\udcff\ud800", GOOD[:64], "0" * 1_000_000],
    ids=lambda garbage: ascii(garbage[:20]),
)  # fmt: skip
def test_garbage_is_an_invalid_signature_and_nothing_worse(garbage: str) -> None:
    assert accepts(GOOD)
    assert not accepts(garbage)


@given(garbage=st.text())
def test_random_garbage_is_an_invalid_signature_and_nothing_worse(garbage: str) -> None:
    assert not accepts(garbage)


def test_the_refusal_tells_neither_the_key_nor_the_expected_signature() -> None:
    with pytest.raises(SignatureInvalid) as refused:
        verify_signature("0" * 128, BODY, [KEY])
    assert "PGCHECKOUT_PAYSTACK_SECRET_KEYS" in str(refused.value)
    assert KEY not in str(refused.value)
    assert GOOD not in str(refused.value)


# amounts


@pytest.mark.parametrize(
    ("amount", "currency", "subunits"),
    [(2500, "NGN", 2500), (2500, "GHS", 2500), (1, "ZAR", 1), (2500, "KES", 2500), (2500, "USD", 2500),
     (2500, "XOF", 250_000), (1, "XOF", 100)],
)  # fmt: skip
def test_a_subunit_is_a_hundredth_in_every_currency(amount: int, currency: str, subunits: int) -> None:
    assert to_paystack_amount(amount, currency) == subunits
    assert from_paystack_amount(subunits, currency) == amount


@given(amount=st.integers(0, 10**13), currency=st.sampled_from(sorted(Paystack.currencies)))
def test_an_amount_survives_the_way_there_and_back(amount: int, currency: str) -> None:
    assert from_paystack_amount(to_paystack_amount(amount, currency), currency) == amount


def test_money_that_is_not_whole_is_not_counted() -> None:
    assert from_paystack_amount(250_099, "XOF") == 2500


def test_an_amount_that_is_not_whole_in_subunits_is_refused_with_a_remedy() -> None:
    with pytest.raises(ProviderRefused) as refused:
        to_paystack_amount(2501, "KWD")
    assert refused.value.hint == "Use a rounder price."
    assert to_paystack_amount(2510, "KWD") == 251
    assert from_paystack_amount(251, "KWD") == 2510
