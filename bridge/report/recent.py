"""Reports for pages that must not wait: a large shop's report takes a second, a page a fraction of that."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from bridge.report.figures import Figures
from bridge.rpc import Rpc

__all__ = ["PERIODS", "Recent", "Reports"]

log = logging.getLogger("pgcheckout")

PERIODS = (7, 30, 90)
PATIENCE_SECONDS = 0.1
REST = 20  # times as long as it took: a period's report takes at most a twentieth of the time


@dataclass(frozen=True, slots=True)
class Recent:
    """The last report, None while there is none; ``failed``: the last try to make one was in vain."""

    figures: Figures | None = None
    failed: bool = False
    made_at: float = float("-inf")
    took: float = 0.0


class Reports:
    """``payment_report`` of each period, made again in the background when it is asked for and old; one at a time."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._known: dict[int, Recent] = {}
        self._making: dict[int, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def read(self, days: int) -> Recent:
        """The report of the last days (one of ``PERIODS``): a new one if that is quick, else the one before."""
        known = self._known.get(days, Recent())
        if time.monotonic() - known.made_at > known.took * REST:
            task = self._making.get(days)
            if task is None or task.done():
                task = self._making[days] = asyncio.create_task(self._make(days))
            await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        return self._known.get(days, known)

    async def _make(self, days: int) -> None:
        async with self._one_at_a_time:
            began, figures = time.monotonic(), None
            try:
                figures = Figures(await self._rpc.payment_report(days))
            except Exception:  # whatever it is, it must not be tried again at once
                log.exception("payment_report(%d) did not answer", days)
            now = time.monotonic()
            before = self._known.get(days, Recent())
            self._known[days] = Recent(figures or before.figures, figures is None, now, now - began)
