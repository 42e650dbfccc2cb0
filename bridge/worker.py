"""The loop behind ``pgcheckout work``: every job in its time, or when there is news, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from bridge.errors import NotSupported, PgcheckoutError
from bridge.jobs import Jobs
from bridge.rpc import Rpc

__all__ = ["Worker"]

log = logging.getLogger("pgcheckout")

# with a second to say goodbye, and another to close: supervisors kill after 10
GRACE_SECONDS = 8.0
GOODBYE_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0
EVERY_SECONDS = {
    "reconcile": 5.0, "notify": 5.0, "number": 30.0, "watch": 30.0, "expire": 60.0, "cleanup": 60.0, "remind": 300.0,
    "audit": 3600.0,
}  # fmt: skip
WOKEN = "notify"  # the job that the database wakes workers for
# between tries to listen again: from the first to the last
LISTEN_AGAIN_SECONDS = (1.0, 60.0)


class Worker:
    """Several at once are safe. ``pace`` below 1 makes it hurry, for tests and demonstrations."""

    def __init__(self, rpc: Rpc, jobs: Jobs, *, name: str = "worker", pace: float = 1.0) -> None:
        self._rpc = rpc
        self._jobs = jobs
        self._name = name
        self._pace = pace
        self._news = {job: asyncio.Event() for job in EVERY_SECONDS}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish what is in hand, all within ten seconds."""
        loops = [
            asyncio.create_task(self._repeat(job, seconds * self._pace, stop)) for job, seconds in EVERY_SECONDS.items()
        ]
        loops.append(asyncio.create_task(self._beat(stop)))
        listening = asyncio.create_task(self._listen())
        await stop.wait()
        listening.cancel()
        for news in self._news.values():
            news.set()
        _, unfinished = await asyncio.wait(loops, timeout=GRACE_SECONDS)
        for task in unfinished:  # what they held comes back when its claim ends
            task.cancel()
        await asyncio.gather(listening, *loops, return_exceptions=True)
        # one that stays says that its worker has crashed
        with contextlib.suppress(PgcheckoutError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._rpc.forget_heartbeat(self._name)

    async def _listen(self) -> None:
        """Be woken by the database. That is a hint; the timers are the truth, and find whatever it does not tell."""
        first, longest = LISTEN_AGAIN_SECONDS
        wait = first
        with contextlib.suppress(NotSupported):
            while True:
                began = time.monotonic()
                trouble = await self._hear()
                if time.monotonic() - began > longest:
                    wait = first
                if wait == first:
                    log.warning("until it can listen again, nobody wakes this worker: %s", trouble)
                await asyncio.sleep(wait)
                wait = min(2 * wait, longest)

    async def _hear(self) -> str:
        try:
            async with contextlib.aclosing(self._rpc.listen()) as jobs:
                async for job in jobs:
                    # whoever begins to listen has missed what was said before
                    if news := self._news.get(job or WOKEN):
                        news.set()
        except NotSupported:
            raise
        except PgcheckoutError as error:
            return error.message
        return "The connection has ended."

    async def _repeat(self, job: str, seconds: float, stop: asyncio.Event) -> None:
        news = self._news[job]
        while not stop.is_set():
            news.clear()  # what comes from here on may not be seen by this run
            done = 0
            try:
                done = await self._jobs.run(job)
            except PgcheckoutError as error:
                log.warning("%s: %s %s", job, error.message, error.hint)
            except Exception:
                log.exception("%s failed; it goes on", job)
            if done:
                log.info("%s: %d", job, done)
            else:
                await _sleep(seconds, news)

    async def _beat(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(PgcheckoutError):  # the other jobs say what is wrong
                await self._rpc.record_heartbeat(self._name)
            await _sleep(HEARTBEAT_SECONDS * self._pace, stop)


async def _sleep(seconds: float, until: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until.wait()
