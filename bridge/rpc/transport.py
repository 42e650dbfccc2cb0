"""What a way to the database must do, and how its failures become errors of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import stamina

from bridge.errors import DatabaseUnavailable, InvalidRequest, PgcheckoutError, Refused, TryAgain

__all__ = ["Transport", "away", "from_sqlstate", "is_set", "not_storable", "until_it_commits"]

_SETS = frozenset({
    "audit_payments", "checkout_session_story", "claim_alerts", "claim_notifications", "claim_sessions_to_reconcile",
    "get_latest_checkout_session", "list_checkout_sessions", "list_dead_notifications", "list_unsettled_pages",
    "list_webhook_failures", "watch_payments",
})  # fmt: skip
_COLLISIONS = ("40001", "40P01")  # serialization_failure, deadlock_detected
_TRY_AGAIN = ("08", "40", "53", "55", "57", "58")  # SQLSTATE classes of a server in trouble, not of a wrong call
_READ_ONLY = "25006"  # a standby after a failover, or a database that was made read-only because its disk is full


class _Collided(DatabaseUnavailable):
    """Two transactions stood in each other's way, and Postgres has undone this one."""


class Transport(Protocol):
    """Calls a function of ``public`` with named arguments, in a transaction of its own.

    A call that Postgres undid because another transaction stood in its way is made again, see ``until_it_commits``.
    Raises Refused (or its subclass for the reason), InvalidRequest, DatabaseUnavailable, PgcheckoutError.
    """

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """The function's value, as JSON would show it; a list of rows for sets, None for void."""

    def listen(self) -> AsyncGenerator[str, None]:
        """The jobs for which the database wakes workers; before them, once it listens, an empty name.

        Raises NotSupported where no session of its own can be had, DatabaseUnavailable when that is cut.
        """

    async def close(self) -> None:
        """Give everything back."""


def is_set(function: str) -> bool:
    """Whether a function answers rows, not one value."""
    return function in _SETS


async def until_it_commits(call: Callable[[], Awaitable[Any]]) -> Any:
    """Make a call, up to five times while another transaction undoes it; then its last error is raised.

    Only for errors with which the whole transaction was undone: a deadlock, a serialization failure, ``try_again``.
    After a lost connection nobody knows what became of the call, so that is the caller's business.
    """
    try:
        return await call()
    except (_Collided, TryAgain) as error:
        first = error
    async for attempt in stamina.retry_context(
        on=(_Collided, TryAgain), attempts=5, timeout=10.0, wait_initial=0.02, wait_max=0.5, wait_jitter=0.1
    ):
        with attempt:
            if attempt.num == 1:  # was made above: what counts and waits is only built for those that collide
                raise first
            return await call()
    raise AssertionError("unreachable")


def from_sqlstate(code: str, message: str | None, detail: str | None, hint: str | None) -> PgcheckoutError:
    """The error that a SQLSTATE calls for; the reason is in DETAIL."""
    if code.startswith("PT"):
        return Refused.for_reason(detail or "", message or "", hint or "")
    if code in _COLLISIONS:
        return _Collided(f"Another call stood in the way ({code}).", "Try again in a moment.")
    if code[:2] in _TRY_AGAIN or code in (_READ_ONLY, "PGRST000", "PGRST001", "PGRST002", "PGRST003"):
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
