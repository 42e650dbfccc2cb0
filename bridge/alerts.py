"""What an operator must hear of. Each process adds up the trouble that only it sees; all of them look for incidents
and tell of them, so that the last one alive still does."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Literal

from bridge.errors import PgcheckoutError
from bridge.mail import Operator
from bridge.metrics import ALERTS, SIGNATURE_FAILURES
from bridge.rpc import Change, Rpc

__all__ = ["Trouble", "audit", "keep_watch", "note", "tell", "watch"]

log = logging.getLogger("pgcheckout")

WATCH_SECONDS = 30.0
ALERTS_AT_ONCE = 10
_MOST = 2**31 - 1

Trouble = Literal["failed_verifications", "signature_failures"]
# of this process, like its metrics; written at most once per look, however often somebody forges
_noted: Counter[tuple[Trouble, str]] = Counter()


def note(trouble: Trouble, provider: str) -> None:
    """Count a trouble with a provider that is turned on; the next ``watch`` of this process reports the sum."""
    _noted[trouble, provider] += 1
    if trouble == "signature_failures":
        SIGNATURE_FAILURES.labels(provider).inc()


async def watch(rpc: Rpc) -> None:
    """Report what was noted, and have the database open and close alerts."""
    for trouble, provider in list(_noted):
        count = _noted.pop((trouble, provider))
        try:
            await rpc.report_trouble(trouble, provider, min(count, _MOST))
        except PgcheckoutError:
            _noted[trouble, provider] += count
            raise
    _log(await rpc.watch_payments())


async def audit(rpc: Rpc) -> None:
    """Have the database check its guarantees, and open and close alerts about them."""
    _log(await rpc.audit_payments())


async def tell(rpc: Rpc, operator: Operator) -> Counter[str]:
    """Tell the operator of what is new: ``sent``, ``failed`` (tried again later) or ``nobody`` (it is in the log)."""
    results: Counter[str] = Counter()
    for alert in await rpc.claim_alerts(ALERTS_AT_ONCE):
        log.error("alert %d: %s (%s). %s", alert.number, alert.kind, alert.subject, alert.detail)
        error, result = None, "failed"
        try:
            result = "sent" if await operator.tell_alert(alert) else "nobody"
        except PgcheckoutError as trouble:
            error = trouble.message
            log.warning("the operator was not told of alert %d: %s", alert.number, error)
        except Exception as trouble:  # a template of the shop's own, say
            error = type(trouble).__name__
            log.exception("the operator was not told of alert %d", alert.number)
        ALERTS.labels(alert.kind, result).inc()
        await rpc.finish_alert(alert.number, error)
        results[result] += 1
    return results


async def keep_watch(rpc: Rpc, operator: Operator) -> None:
    """What a serving bridge does beside its requests, until it is cancelled: the only worker may be what has died.

    One that cannot reach the operator leaves telling to a process that can.
    """
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            await watch(rpc)
            if operator.reachable:
                await tell(rpc, operator)
        except PgcheckoutError as error:
            log.warning("watch: %s %s", error.message, error.hint)
        except Exception:
            log.exception("watch failed; it goes on")


def _log(changes: list[Change]) -> None:
    for change in changes:
        level = logging.ERROR if change.change == "opened" else logging.INFO
        log.log(level, "incident %s: %s (%s). %s", change.change, change.kind, change.subject, change.detail)
