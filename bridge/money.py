"""Amounts for people. Everywhere else an amount is an integer of the currency's minor unit."""

from __future__ import annotations

from decimal import Decimal

__all__ = ["display_amount", "exponent"]

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
