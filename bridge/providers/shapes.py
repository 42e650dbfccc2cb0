"""Reading JSON that others wrote: what is not shaped as documented becomes an error of ours, never a surprise."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

from bridge.errors import PgcheckoutError

__all__ = ["MALFORMED", "moment", "shaped", "storable", "storable_json", "text", "whole"]

# what reading JSON of another shape than the expected one raises
MALFORMED = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
# of texts that Postgres cannot keep, and of encodings other than UTF-8
_SIGNS_OF_TROUBLE = ("\0", "\\u0000", "\\ud", "\\uD", "\ufeff", "\ufffd")


@contextmanager
def shaped(error: type[PgcheckoutError], what: str) -> Iterator[None]:
    """Raise ``error`` where the block stumbles over a body that is not shaped as it expects."""
    try:
        yield
    except MALFORMED as surprise:
        raise error(
            f"{what} is not as documented ({type(surprise).__name__}: {surprise}).",
            "Compare it with the provider's documentation.",
        ) from None


def text(value: Any, longest: int = 255) -> str:
    """A string that is not empty; by default no longer than the ids that providers give."""
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise TypeError(f"{type(value).__name__} where text of 1 to {longest} characters belongs")
    return value


def whole(value: Any) -> int:
    """An integer that is not negative and that Postgres can keep as a bigint, in any of our units."""
    if type(value) is not int or not 0 <= value < 10**15:
        raise TypeError(f"{type(value).__name__} where a positive whole number belongs")
    return value


def moment(seconds: Any) -> datetime | None:
    """A Unix time."""
    return None if seconds is None else datetime.fromtimestamp(whole(seconds), UTC)


def storable_json(body: bytes, removed: frozenset[str] = frozenset()) -> Any:
    """``storable`` of JSON; of what providers really send in half the time, without a look at each value."""
    said = body.decode(errors="replace")
    for sign in _SIGNS_OF_TROUBLE:
        if sign in said:
            return storable(json.loads(body), removed)
    return _decoder(removed).decode(said)


@cache
def _decoder(removed: frozenset[str]) -> json.JSONDecoder:
    def without_removed(members: dict[str, Any]) -> dict[str, Any]:
        if not removed.isdisjoint(members):
            members |= {name: "[removed]" for name in removed & members.keys() if members[name]}
        return members

    return json.JSONDecoder(object_hook=without_removed, parse_float=_finite, parse_constant=_finite)


def _finite(digits: str) -> Any:
    return storable(float(digits), ())


def storable(value: Any, removed: Collection[str]) -> Any:
    """Without the named fields, and without what Postgres cannot keep: NUL, lone surrogates, infinity."""
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else _storable_text(value)
    if isinstance(value, dict):
        return {
            storable(name, ()): "[removed]" if name in removed and item else storable(item, removed)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [storable(item, removed) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return value


def _storable_text(value: str) -> str:
    return value.encode(errors="replace").decode().replace("\0", "?")
