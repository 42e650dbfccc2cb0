"""Amounts for people. Everywhere else an amount is an integer of the currency's minor unit."""

from __future__ import annotations

import re
from decimal import Decimal

from bridge.errors import InvalidRequest

__all__ = ["display_amount", "exponent", "major_units", "minor_units"]

# ISO 4217; the same list as payments.currency_exponent, and a test holds the two together
_NO_MINOR_UNIT = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF")
)
_THREE_DIGITS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))


def exponent(currency: str) -> int:
    """Decimal digits of a currency's minor unit."""
    return 0 if currency in _NO_MINOR_UNIT else 3 if currency in _THREE_DIGITS else 2


def display_amount(amount: int, currency: str) -> str:
    """``display_amount(250000, "NGN") == "2,500.00 NGN"``."""
    return f"{Decimal(amount).scaleb(-exponent(currency)):,f} {currency}"


def major_units(amount: int, currency: str) -> str:
    """``major_units(250000, "NGN") == "2500.00"``, as a form shows it."""
    return f"{Decimal(amount).scaleb(-exponent(currency)):f}"


def minor_units(text: str, currency: str) -> int:
    """What a person wrote in a form, ``minor_units("2500.00", "NGN") == 250000``. Raises InvalidRequest."""
    digits = exponent(currency)
    found = re.fullmatch(rf"([0-9]{{1,13}})(?:\.([0-9]{{1,{digits}}}))?" if digits else "([0-9]{1,15})()", text.strip())
    amount = int(found[1] + (found[2] or "").ljust(digits, "0")) if found else 0
    if amount == 0:
        raise InvalidRequest(
            f"amount: is not an amount of {currency}.", f"Write it like {major_units(1000, currency)}, more than zero."
        )
    return amount
