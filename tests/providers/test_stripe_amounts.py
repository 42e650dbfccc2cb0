"""Minor units as ISO 4217 has them, and as Stripe wants them (docs.stripe.com/currencies)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ProviderRefused
from bridge.providers.stripe import from_stripe_amount, to_stripe_amount

ZERO_DECIMAL = ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF")
TWO_DECIMAL = ("USD", "EUR", "GBP", "NGN", "UZS", "ILS", "GHS", "KES", "ZAR", "HUF", "TWD")
THREE_DECIMAL = ("BHD", "JOD", "KWD", "OMR", "TND")
TIMES_HUNDRED = ("ISK", "UGX")


@pytest.mark.parametrize("currency", ZERO_DECIMAL + TWO_DECIMAL)
@given(amount=st.integers(1, 99_999_999))
def test_an_ordinary_currency_is_sent_as_it_is(currency: str, amount: int) -> None:
    assert to_stripe_amount(amount, currency) == amount
    assert from_stripe_amount(amount, currency) == amount


@pytest.mark.parametrize("currency", TIMES_HUNDRED)
def test_whole_crowns_and_shillings_are_sent_times_one_hundred(currency: str) -> None:
    assert to_stripe_amount(5, currency) == 500
    assert from_stripe_amount(500, currency) == 5


@pytest.mark.parametrize("currency", TIMES_HUNDRED)
def test_a_part_of_a_crown_is_never_counted_as_a_whole_one(currency: str) -> None:
    assert from_stripe_amount(599, currency) == 5


def test_ariary_lose_the_two_digits_that_iso_gives_them() -> None:
    assert to_stripe_amount(500_000, "MGA") == 5_000
    assert from_stripe_amount(5_000, "MGA") == 500_000


@pytest.mark.parametrize("amount", [1, 99, 101, 500_050])
def test_part_of_an_ariary_cannot_be_charged(amount: int) -> None:
    with pytest.raises(ProviderRefused, match=f"{amount} minor units of MGA") as refused:
        to_stripe_amount(amount, "MGA")
    assert refused.value.hint


@pytest.mark.parametrize("currency", THREE_DECIMAL)
@given(tens=st.integers(1, 9_999_999), last_digit=st.integers(1, 9))
def test_thousandths_must_end_in_zero(currency: str, tens: int, last_digit: int) -> None:
    assert to_stripe_amount(tens * 10, currency) == tens * 10
    with pytest.raises(ProviderRefused):
        to_stripe_amount(tens * 10 + last_digit, currency)


@pytest.mark.parametrize(
    ("largest", "currency"), [(99_999_999, "USD"), (999_999, "ISK"), (9_999_999_900, "MGA"), (99_999_990, "KWD")]
)
def test_a_charge_has_at_most_eight_digits(largest: int, currency: str) -> None:
    assert to_stripe_amount(largest, currency) <= 99_999_999
    with pytest.raises(ProviderRefused, match="cannot charge") as refused:
        to_stripe_amount(largest + (100 if currency == "MGA" else 10), currency)
    assert "smaller" in refused.value.hint


@given(
    amount=st.integers(0, 99_999_999),
    currency=st.sampled_from([*ZERO_DECIMAL, *TWO_DECIMAL, *THREE_DECIMAL, *TIMES_HUNDRED, "MGA"]),
)
def test_what_can_be_charged_comes_back_as_the_same_amount(amount: int, currency: str) -> None:
    try:
        charge = to_stripe_amount(amount, currency)
    except ProviderRefused:
        return
    assert from_stripe_amount(charge, currency) == amount
