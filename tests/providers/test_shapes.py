"""JSON of others is kept as Postgres can keep it, whichever way it was read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.providers.shapes import storable, storable_json

REMOVED = frozenset({"email", "url"})
NAMES = st.sampled_from(["id", "email", "url", "café", "\0", "\ud83d", "\ufeff", "\ufffd", "\\u0000", "😀", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])


@given(VALUES, st.booleans(), ENCODINGS)
def test_it_makes_no_difference_how_it_was_read(value: Any, escaped: bool, encoding: str) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode(encoding, "surrogatepass")
    assert repr(storable_json(body, REMOVED)) == repr(storable(json.loads(body), REMOVED))


@pytest.mark.parametrize("body", [b"NaN", b"[-Infinity]", b'{"amount": 1e999}', b'{"id": "\xff"}', b"", b"{]"])
def test_what_is_no_json_or_not_finite_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # of several kinds
        storable_json(body, REMOVED)
