"""Requests that must have their effect once, however often they are sent: the ``Idempotency-Key`` header."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from bridge.errors import PgcheckoutError
from bridge.rpc import Claim, Rpc

__all__ = ["digest", "run_once"]

log = logging.getLogger("pgcheckout")

Answer = Mapping[str, Any]


async def run_once(
    rpc: Rpc,
    user_id: UUID,
    key: str | None,
    body: bytes,
    work: Callable[[], Awaitable[Answer]],
    *,
    scope: str = "checkout",
) -> Answer:
    """Do the work, or answer what the same user's same request (body) with the same key was answered.

    A request that failed had no effect: its repeat works again. One whose worker has crashed is taken over after
    ``settings.idempotency_lease``. Raises IdempotencyConflict (the key went with another request), RequestInProgress,
    and what the work raises.
    """
    if key is None:
        return await work()
    # keys are unique in the whole installation and shorter than the header may be
    name = f"{scope}:{user_id}:{digest(key.encode())}"
    claim = await rpc.begin_idempotent_request(name, digest(body), user_id)
    if claim.number is None:
        return claim.response or {}
    try:
        answer = await work()
    except BaseException:
        await _finish(rpc, name, claim, None)
        raise
    await _finish(rpc, name, claim, answer)
    return answer


async def _finish(rpc: Rpc, name: str, claim: Claim, answer: Answer | None) -> None:
    try:
        await rpc.finish_idempotent_request(name, claim, answer)
    except PgcheckoutError as error:
        # the work is done, or its own error matters more; after its lease the claim can be taken over
        log.warning("an idempotent request was not finished: %s", error.reason)


def digest(content: bytes) -> str:
    """Hex, as short as SHA-256 is."""
    return hashlib.sha256(content).hexdigest()
