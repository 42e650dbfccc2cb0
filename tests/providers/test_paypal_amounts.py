"""Minor units as ISO 4217 has them, and as PayPal writes them.

Source: developer.paypal.com/api/rest/reference/currency-codes.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ProviderRefused
from bridge.providers.paypal import PayPal, from_paypal_amount, to_paypal_amount
from bridge.simulators.paypal import CURRENCIES, check_money

amounts = st.integers(1, 10**15 - 1)


def test_the_currencies_are_those_that_paypal_lists() -> None:
    assert PayPal.currencies == CURRENCIES
    assert len(PayPal.currencies) == 24


@pytest.mark.parametrize(
    ("amount", "currency", "written"),
    [
        (2500, "USD", "25.00"), (1, "EUR", "0.01"), (100, "ILS", "1.00"), (99_999_999_999, "GBP", "999999999.99"),
        (2500, "JPY", "2500"), (2500, "HUF", "25"), (100, "TWD", "1"), (10**14, "TWD", "1000000000000"),
    ],
)  # fmt: skip
def test_an_amount_is_written_in_major_units(amount: int, currency: str, written: str) -> None:
    money = to_paypal_amount(amount, currency)
    assert money == {"currency_code": currency, "value": written}
    assert from_paypal_amount(money) == (amount, currency)


@pytest.mark.parametrize("currency", ["HUF", "TWD"])
@given(whole=st.integers(0, 10**9), part=st.integers(1, 99))
def test_a_part_of_a_forint_or_taiwan_dollar_cannot_be_charged(currency: str, whole: int, part: int) -> None:
    with pytest.raises(ProviderRefused, match=f"fractions of {currency}") as refused:
        to_paypal_amount(whole * 100 + part, currency)
    assert "whole" in refused.value.hint


def test_an_amount_that_is_too_long_for_paypal_is_refused() -> None:
    with pytest.raises(ProviderRefused, match="cannot charge"):
        to_paypal_amount(10**40, "USD")


@given(amount=amounts, currency=st.sampled_from(sorted(CURRENCIES)))
def test_what_can_be_charged_is_what_paypal_takes_and_comes_back_the_same(amount: int, currency: str) -> None:
    try:
        money = to_paypal_amount(amount, currency)
    except ProviderRefused:
        assert currency in ("HUF", "TWD")
        return
    check_money(money)
    assert from_paypal_amount(money) == (amount, currency)


@pytest.mark.parametrize(
    "money",
    [
        None, [], {}, "25.00", {"value": "25.00"}, {"currency_code": "USD"}, {"currency_code": "USD", "value": 25},
        {"currency_code": "USD", "value": "25.001"}, {"currency_code": "USD", "value": "-25.00"},
        {"currency_code": "USD", "value": "1e3"}, {"currency_code": "USD", "value": "٢٥"},
        {"currency_code": "USD", "value": "NaN"}, {"currency_code": "USD", "value": " 25"},
        {"currency_code": "USD", "value": "25.00\n"}, {"currency_code": "USD", "value": "9" * 30},
        {"currency_code": "JPY", "value": "25.5"}, {"currency_code": "DOLLAR", "value": "25"},
        {"currency_code": "USD", "value": "1.0000000000000000000000000001"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_amount_is_never_read_as_one(money: Any) -> None:
    with pytest.raises((TypeError, ValueError, LookupError)):
        from_paypal_amount(money)
