"""What must be done without anybody asking: providers are asked again, sessions expire, letters are sent, old rows go.

Any number of callers at once are safe: what one has claimed, the others skip, and what a killed one held comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from bridge.alerts import audit, tell, watch
from bridge.checkout import Checkout
from bridge.errors import NotSupported, PgcheckoutError
from bridge.logs import about_session, working_on
from bridge.mail import Operator, Post, Writer
from bridge.metrics import LETTERS, RECONCILED, REPAIRS
from bridge.rpc import Due, Letter, Rpc
from bridge.settings import Settings
from bridge.values import SessionStatus

__all__ = ["CLEANUP_RESTS", "Asked", "Bucket", "Jobs", "ask_about", "reconcile", "send_letters", "unsettled_pages"]

log = logging.getLogger("pgcheckout")

REQUESTS_PER_SECOND = 5.0
# what is claimed together must be done before the claims lapse, after 5 minutes
PAGES, LETTERS_AT_ONCE = 20, 8
ROWS_AT_ONCE = 1000
CLEANUP_RESTS = 9  # times as long as it has worked


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


class Asked(NamedTuple):
    """What is known of a session after its page was asked about.

    ``problem`` is the reason why its provider could not be asked; ``told`` is False when that provider only ever tells
    by itself. ``status`` and ``in_review`` are as the database has them then, None and False when it could not say.
    """

    provider: str
    status: SessionStatus | None
    told: bool = True
    problem: str | None = None
    in_review: bool = False


def new_buckets(checkout: Checkout) -> Mapping[str, Bucket]:
    """One for each provider that is turned on."""
    return {provider: Bucket(REQUESTS_PER_SECOND, PAGES) for provider in checkout.providers}


async def reconcile(rpc: Rpc, checkout: Checkout, buckets: Mapping[str, Bucket], limit: int = PAGES) -> Counter[str]:
    """Ask the providers about the sessions that are due. What became of them: each status, or ``failed``."""
    results: Counter[str] = Counter()
    due = await rpc.claim_sessions_to_reconcile(limit)
    for asked in await asyncio.gather(*(_ask_again(rpc, checkout, buckets, page) for page in due)):
        results[asked.status or "failed"] += 1
    return results


async def unsettled_pages(rpc: Rpc, since: datetime | None, provider: str | None, limit: int | None) -> list[Due]:
    """The pages of unpaid sessions made since then, or (without) those that are due now; at most ``limit``."""
    pages: list[Due] = []
    while limit is None or len(pages) < limit:
        room = ROWS_AT_ONCE if limit is None else min(limit - len(pages), ROWS_AT_ONCE)
        found = await rpc.list_unsettled_pages(since, provider, pages[-1].session_id if pages else None, room)
        pages += found
        if len(found) < room:
            break
    return pages


async def ask_about(rpc: Rpc, checkout: Checkout, pages: Collection[Due]) -> AsyncGenerator[Asked, None]:
    """Ask the providers about these pages, whoever else does; each answer as it comes. Trouble is an answer, too."""
    buckets = new_buckets(checkout)
    # a provider that hangs keeps only its own pages waiting
    turns: Mapping[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PAGES))

    async def ask(page: Due) -> Asked:
        async with turns[page.provider]:
            try:
                asked = await _ask_again(rpc, checkout, buckets, page)
                now = await rpc.find_checkout_attempt(session_id=page.session_id)
            except PgcheckoutError as error:
                return Asked(page.provider, None, problem=error.reason)
        return asked._replace(status=now.status, in_review=now.review_reason is not None)

    tasks = [asyncio.create_task(ask(page)) for page in pages]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_again(rpc: Rpc, checkout: Checkout, buckets: Mapping[str, Bucket], page: Due) -> Asked:
    if page.provider in buckets:
        await buckets[page.provider].wait()
    about_session(page.session_id)
    detail, asked = None, Asked(page.provider, None)
    try:
        known = await checkout.verify(None, "reconcile", reference=page.reference, provider=page.provider)
        asked = asked._replace(status=known.status, told=known.verified)
        if known.status == "cancelled":  # in the database only: its page is still open
            await checkout.close(known.attempt)
    except PgcheckoutError as error:
        detail = error.reason
        log.warning("session %s could not be reconciled: %s", page.session_id, error.reason)
    except Exception as error:
        detail = type(error).__name__
        log.exception("session %s could not be reconciled", page.session_id)
    RECONCILED.labels(page.provider, asked.status or "failed").inc()
    if asked.status == "completed":
        REPAIRS.labels(page.provider).inc()
    await rpc.finish_reconcile(page.session_id, asked=detail is None, detail=detail)
    return asked._replace(problem=detail)


async def send_letters(
    rpc: Rpc, writer: Writer, post: Post | None, operator: Operator, limit: int = LETTERS_AT_ONCE
) -> Counter[str]:
    """Send what the outbox wants told: ``sent``, ``failed`` (tried again later) or ``nobody`` (an alert without an
    operator, which is in the log). Without a mail server, only what the operator's webhook can be told."""
    results: Counter[str] = Counter()
    for letter in await rpc.claim_notifications(limit, None if post else ["review_alert"]):
        with working_on(letter.session_id):
            results[await _handle(rpc, letter, writer, post, operator)] += 1
    return results


async def _handle(rpc: Rpc, letter: Letter, writer: Writer, post: Post | None, operator: Operator) -> str:
    error, result = None, "failed"
    try:
        result = await _send(letter, writer, post, operator)
    except PgcheckoutError as trouble:
        error = trouble.message
        log.warning("letter %d (%s) was not sent: %s", letter.number, letter.kind, error)
    except Exception as trouble:  # a template of the shop's own, say: it must not keep the others
        error = type(trouble).__name__
        log.exception("letter %d (%s) was not sent", letter.number, letter.kind)
    LETTERS.labels(letter.kind, result).inc()
    await rpc.finish_notification(letter.number, error)
    return result


async def _send(letter: Letter, writer: Writer, post: Post | None, operator: Operator) -> str:
    if letter.email is None:
        log.warning("session %s needs a person: %s", letter.session_id, letter.payload["occurrence"])
        return "sent" if await operator.tell_review(letter) else "nobody"
    message = writer.write(letter)
    if post and message:
        await post.send(message)
    return "sent"


class Jobs:
    """The jobs by name; each says how much it has done. Run it again while that is more than nothing."""

    def __init__(self, rpc: Rpc, checkout: Checkout, settings: Settings) -> None:
        self._rpc = rpc
        self._checkout = checkout
        self._buckets = new_buckets(checkout)
        self._writer = Writer(settings)
        self._post = Post(settings) if settings.smtp_url else None
        self._operator = Operator(settings)
        self._jobs: Mapping[str, Callable[[], Awaitable[int]]] = {
            "reconcile": self._reconcile,
            "notify": self._notify,
            "remind": rpc.enqueue_payment_reminders,
            "expire": rpc.expire_old_checkout_sessions,
            "number": rpc.number_payment_invoices,
            "cleanup": self._clean_up,
            "watch": self._watch,
            "audit": self._audit,
        }

    async def run(self, name: str) -> int:
        """Do a job once. Raises NotSupported for a name that none has."""
        if name not in self._jobs:
            raise NotSupported(f"There is no job {name!r}.", f"There are: {', '.join(self._jobs)}.")
        return await self._jobs[name]()

    async def _reconcile(self) -> int:
        return sum((await reconcile(self._rpc, self._checkout, self._buckets)).values())

    async def _notify(self) -> int:
        if self._post is None and not self._operator.has_webhook:  # the letters wait
            return 0
        return sum((await send_letters(self._rpc, self._writer, self._post, self._operator)).values())

    async def _clean_up(self) -> int:
        began = time.monotonic()
        done = await self._rpc.clean_up()
        if done:  # whoever repeats this until nothing is left leaves nine tenths of the time to buyers
            await asyncio.sleep(CLEANUP_RESTS * (time.monotonic() - began))
        return done

    async def _watch(self) -> int:
        await watch(self._rpc)
        return sum((await tell(self._rpc, self._operator)).values())

    async def _audit(self) -> int:
        await audit(self._rpc)
        return await self._watch()
