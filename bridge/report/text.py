"""Text of strangers, made safe to be shown: in a terminal, and in a spreadsheet."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["cell", "masked", "plain", "without_addresses"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# entered once, at its beginning, and never given back: linear in the text
_ADDRESS = re.compile(r"(?<![\w.+'\-])[\w.+'\-]++@[\w\-]++(?:\.[\w\-]++)*+")


def plain(value: object) -> str:
    """Without control characters, which could move the cursor or colour what follows."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value))


def masked(email: str) -> str:
    """Enough of an address to recognise one's own: ``a***@example.com``."""
    name, _, place = plain(email).rpartition("@")
    return f"{name[:1]}***@{place}"


def cell(value: Any) -> Any:
    """A value for CSV: what a spreadsheet would take for a formula becomes text."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def without_addresses(text: str) -> str:
    """The same with every e-mail address masked."""
    return _ADDRESS.sub(lambda found: masked(found[0]), plain(text))
