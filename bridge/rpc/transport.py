"""What a way to the database must do, and how its failures become errors of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from bridge.errors import DatabaseUnavailable, InvalidRequest, PgcheckoutError, Refused

__all__ = ["Transport", "away", "from_sqlstate", "is_set", "not_storable"]

_SETS = frozenset({
    "claim_notifications", "claim_sessions_to_reconcile", "get_latest_checkout_session", "list_webhook_failures"
})  # fmt: skip
_TRY_AGAIN = ("08", "40", "53", "55", "57", "58")  # SQLSTATE classes of a server in trouble, not of a wrong call


class Transport(Protocol):
    """Calls a function of ``public`` with named arguments, in a transaction of its own.

    Raises Refused (or its subclass for the reason), InvalidRequest, DatabaseUnavailable, PgcheckoutError.
    """

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """The function's value, as JSON would show it; a list of rows for sets, None for void."""

    async def close(self) -> None:
        """Give everything back."""


def is_set(function: str) -> bool:
    """Whether a function answers rows, not one value."""
    return function in _SETS


def from_sqlstate(code: str, message: str | None, detail: str | None, hint: str | None) -> PgcheckoutError:
    """The error that a SQLSTATE calls for; the reason is in DETAIL."""
    if code.startswith("PT"):
        return Refused.for_reason(detail or "", message or "", hint or "")
    if code[:2] in _TRY_AGAIN or code in ("PGRST000", "PGRST001", "PGRST002", "PGRST003"):
        return away(code)
    if code[:2] == "22":
        return InvalidRequest("A value does not fit its argument.", f"SQLSTATE {code}.")
    return PgcheckoutError(f"The database refuses the call (SQLSTATE {code}).", "Run `pgcheckout doctor`.")


def not_storable() -> InvalidRequest:
    """For what cannot even be sent."""
    return InvalidRequest("A text contains a character that Postgres cannot store.", "Remove NUL and lone surrogates.")


def away(why: str) -> DatabaseUnavailable:
    """For a database that cannot be reached or is in trouble."""
    return DatabaseUnavailable(f"The database does not answer ({why}).", "Try again in a moment.")
