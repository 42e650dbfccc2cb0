"""The loop behind ``pgcheckout work``: every job in its time, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bridge.errors import PgcheckoutError
from bridge.jobs import Jobs
from bridge.rpc import Rpc

__all__ = ["Worker"]

log = logging.getLogger("pgcheckout")

GRACE_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
# what deletes is left to those who have chosen how long to keep things
EVERY_SECONDS = {"reconcile": 5.0, "notify": 5.0, "number": 30.0, "expire": 60.0, "remind": 300.0}


class Worker:
    """Several at once are safe. ``pace`` below 1 makes it hurry, for tests and demonstrations."""

    def __init__(self, rpc: Rpc, jobs: Jobs, *, name: str = "worker", pace: float = 1.0) -> None:
        self._rpc = rpc
        self._jobs = jobs
        self._name = name
        self._pace = pace

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish what is in hand, for at most ten seconds."""
        loops = [
            asyncio.create_task(self._repeat(job, seconds * self._pace, stop)) for job, seconds in EVERY_SECONDS.items()
        ]
        loops.append(asyncio.create_task(self._beat(stop)))
        await stop.wait()
        _, unfinished = await asyncio.wait(loops, timeout=GRACE_SECONDS)
        for task in unfinished:  # what they held comes back when its claim ends
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def _repeat(self, job: str, seconds: float, stop: asyncio.Event) -> None:
        while not stop.is_set():
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
                await _either(stop, seconds)

    async def _beat(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(PgcheckoutError):  # the other jobs say what is wrong
                await self._rpc.record_heartbeat(self._name)
            await _either(stop, HEARTBEAT_SECONDS * self._pace)


async def _either(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
