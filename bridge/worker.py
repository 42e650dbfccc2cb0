"""What must be done without anybody asking: the provider is asked again, sessions expire, letters are written
and sent.

Several workers at once are safe: what one has claimed, the others skip, and what a killed one held comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bridge.checkout import Checkout
from bridge.errors import PgcheckoutError
from bridge.mail import Post, Writer
from bridge.metrics import LETTERS, RECONCILED
from bridge.rpc import Due, Rpc
from bridge.settings import Settings

__all__ = ["Bucket", "Worker", "reconcile", "send_letters"]

log = logging.getLogger("pgcheckout")

BATCH = 20
GRACE_SECONDS = 10.0
REQUESTS_PER_SECOND = 5.0


class Bucket:
    """Lets ``rate`` a second pass, ``burst`` at once; the others wait their turn."""

    def __init__(self, rate: float, burst: int) -> None:
        self._gap = 1 / rate
        self._burst = burst
        self._next = 0.0

    async def wait(self) -> None:
        """Return when it is this caller's turn."""
        now = time.monotonic()
        self._next = max(self._next, now - self._gap * (self._burst - 1)) + self._gap
        await asyncio.sleep(self._next - self._gap - now)


async def reconcile(rpc: Rpc, checkout: Checkout, buckets: Mapping[str, Bucket], limit: int = BATCH) -> Counter[str]:
    """Ask the providers about the sessions that are due. What became of them: each status, or ``failed``."""
    results: Counter[str] = Counter()
    due = await rpc.claim_sessions_to_reconcile(limit)
    for result in await asyncio.gather(*(_ask_again(rpc, checkout, buckets, page) for page in due)):
        results[result] += 1
    return results


async def _ask_again(rpc: Rpc, checkout: Checkout, buckets: Mapping[str, Bucket], page: Due) -> str:
    if page.provider in buckets:
        await buckets[page.provider].wait()
    detail, result = None, "failed"
    try:
        known = await checkout.verify(None, "reconcile", reference=page.reference, provider=page.provider)
        result = known.status
        if result == "cancelled":  # in the database only: its page is still open
            await checkout.close(known.attempt)
    except PgcheckoutError as error:
        detail = error.reason
        log.warning("session %s could not be reconciled: %s", page.session_id, error.reason)
    RECONCILED.labels(page.provider, result).inc()
    await rpc.finish_reconcile(page.session_id, asked=detail is None, detail=detail)
    return result


@dataclass(frozen=True, slots=True)
class _Job:
    """Work that is done every so many seconds, and again at once while there is more of it."""

    name: str
    every: float
    work: Callable[[], Awaitable[int]]


async def send_letters(rpc: Rpc, writer: Writer, post: Post, limit: int = BATCH) -> Counter[str]:
    """Send what the outbox wants told: ``sent``, ``failed`` (tried again later) or ``nobody`` (an alert without an
    operator, which is in the log)."""
    results: Counter[str] = Counter()
    for letter in await rpc.claim_notifications(limit):
        error = None
        try:
            message = writer.write(letter)
            if message is None:
                log.warning("session %s needs a person: %s", letter.session_id, letter.payload["occurrence"])
            else:
                await post.send(message)
        except PgcheckoutError as trouble:
            error = trouble.message
            log.warning("letter %d (%s) was not sent: %s", letter.number, letter.kind, error)
        result = "failed" if error else "sent" if message else "nobody"
        LETTERS.labels(letter.kind, result).inc()
        await rpc.finish_notification(letter.number, error)
        results[result] += 1
    return results


class Worker:
    """The loop behind ``pgcheckout work``. ``pace`` below 1 makes it hurry, for tests and demonstrations."""

    def __init__(
        self, rpc: Rpc, checkout: Checkout, settings: Settings, *, name: str = "worker", pace: float = 1.0
    ) -> None:
        self._rpc = rpc
        self._writer = Writer(settings)
        self._post = Post(settings) if settings.smtp_url else None
        self._checkout = checkout
        self._name = name
        self._buckets = {provider: Bucket(REQUESTS_PER_SECOND, BATCH) for provider in checkout.providers}
        self._jobs = (
            _Job("reconcile", 5.0 * pace, self._reconcile),
            _Job("expire", 60.0 * pace, rpc.expire_old_checkout_sessions),
            _Job("remind", 300.0 * pace, rpc.enqueue_payment_reminders),
            _Job("number", 30.0 * pace, rpc.number_payment_invoices),
            _Job("heartbeat", 15.0 * pace, self._beat),
            *([_Job("letters", 5.0 * pace, self._send)] if self._post else []),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish what is in hand, for at most ten seconds."""
        loops = [asyncio.create_task(self._repeat(job, stop)) for job in self._jobs]
        await stop.wait()
        _, unfinished = await asyncio.wait(loops, timeout=GRACE_SECONDS)
        for task in unfinished:  # what they held comes back when its claim ends
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def _repeat(self, job: _Job, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                done = await job.work()
            except PgcheckoutError as error:
                log.warning("%s: %s %s", job.name, error.message, error.hint)
                done = 0
            if done:
                log.info("%s: %d", job.name, done)
            if not done:
                await _either(stop, job.every)

    async def _reconcile(self) -> int:
        return sum((await reconcile(self._rpc, self._checkout, self._buckets)).values())

    async def _send(self) -> int:
        if self._post is None:
            return 0
        return sum((await send_letters(self._rpc, self._writer, self._post)).values())

    async def _beat(self) -> int:
        await self._rpc.record_heartbeat(self._name)
        return 0


async def _either(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
