"""What must be done without anybody asking: providers are asked again, sessions expire, letters are written and sent.

Any number of callers at once are safe: what one has claimed, the others skip, and what a killed one held comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from bridge.checkout import Checkout
from bridge.errors import NotSupported, PgcheckoutError
from bridge.mail import Post, Writer
from bridge.metrics import LETTERS, RECONCILED
from bridge.rpc import Due, Rpc
from bridge.settings import Settings

__all__ = ["Bucket", "Jobs", "reconcile", "send_letters"]

log = logging.getLogger("pgcheckout")

REQUESTS_PER_SECOND = 5.0
# what is claimed together must be done before the claims lapse, after 5 minutes
PAGES, LETTERS_AT_ONCE = 20, 8


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


async def reconcile(rpc: Rpc, checkout: Checkout, buckets: Mapping[str, Bucket], limit: int = PAGES) -> Counter[str]:
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
    except Exception as error:
        detail = type(error).__name__
        log.exception("session %s could not be reconciled", page.session_id)
    RECONCILED.labels(page.provider, result).inc()
    await rpc.finish_reconcile(page.session_id, asked=detail is None, detail=detail)
    return result


async def send_letters(rpc: Rpc, writer: Writer, post: Post, limit: int = LETTERS_AT_ONCE) -> Counter[str]:
    """Send what the outbox wants told: ``sent``, ``failed`` (tried again later) or ``nobody`` (an alert without an
    operator, which is in the log)."""
    results: Counter[str] = Counter()
    for letter in await rpc.claim_notifications(limit):
        error = message = None
        try:
            message = writer.write(letter)
            if message is None:
                log.warning("session %s needs a person: %s", letter.session_id, letter.payload["occurrence"])
            else:
                await post.send(message)
        except PgcheckoutError as trouble:
            error = trouble.message
            log.warning("letter %d (%s) was not sent: %s", letter.number, letter.kind, error)
        except Exception as trouble:  # a template of the shop's own, say: it must not keep the others
            error = type(trouble).__name__
            log.exception("letter %d (%s) was not sent", letter.number, letter.kind)
        result = "failed" if error else "sent" if message else "nobody"
        LETTERS.labels(letter.kind, result).inc()
        await rpc.finish_notification(letter.number, error)
        results[result] += 1
    return results


class Jobs:
    """The jobs by name; each says how much it has done. Run it again while that is more than nothing."""

    def __init__(self, rpc: Rpc, checkout: Checkout, settings: Settings) -> None:
        self._rpc = rpc
        self._checkout = checkout
        self._buckets = {provider: Bucket(REQUESTS_PER_SECOND, PAGES) for provider in checkout.providers}
        self._writer = Writer(settings)
        self._post = Post(settings) if settings.smtp_url else None
        self._jobs: Mapping[str, Callable[[], Awaitable[int]]] = {
            "reconcile": self._reconcile,
            "notify": self._notify,
            "remind": rpc.enqueue_payment_reminders,
            "expire": rpc.expire_old_checkout_sessions,
            "number": rpc.number_payment_invoices,
            "cleanup": rpc.clean_up,
        }

    async def run(self, name: str) -> int:
        """Do a job once. Raises NotSupported for a name that none has."""
        if name not in self._jobs:
            raise NotSupported(f"There is no job {name!r}.", f"There are: {', '.join(self._jobs)}.")
        return await self._jobs[name]()

    async def _reconcile(self) -> int:
        return sum((await reconcile(self._rpc, self._checkout, self._buckets)).values())

    async def _notify(self) -> int:
        if self._post is None:  # the letters wait
            return 0
        return sum((await send_letters(self._rpc, self._writer, self._post)).values())
