"""Reports for pages that must not wait: a large shop's report takes a second, a page a fraction of that."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from bridge.errors import PgcheckoutError
from bridge.report.figures import Figures
from bridge.rpc import Rpc

__all__ = ["PERIODS", "Reports"]

log = logging.getLogger("pgcheckout")

PERIODS = (7, 30, 90)
PATIENCE_SECONDS = 0.1
REST = 20  # reports take at most a twentieth of the database's time


@dataclass(frozen=True, slots=True)
class _Known:
    figures: Figures
    at: float
    took: float


class Reports:
    """``payment_report`` of each period, made again in the background when it is asked for and old."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._known: dict[int, _Known] = {}
        self._making: dict[int, asyncio.Task[None]] = {}

    async def read(self, days: int) -> Figures | None:
        """The report of the last days (one of ``PERIODS``): a new one if that is quick, else the one before; None while
        the first is made."""
        known = self._known.get(days)
        if known is None or time.monotonic() - known.at > known.took * REST:
            task = self._making.get(days)
            if task is None or task.done():
                task = self._making[days] = asyncio.create_task(self._make(days))
            await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        known = self._known.get(days)
        return known.figures if known else None

    async def _make(self, days: int) -> None:
        began = time.monotonic()
        try:
            figures = Figures(await self._rpc.payment_report(days))
        except PgcheckoutError as error:
            log.warning("payment_report(%d) did not answer: %s", days, error.reason)
            return
        now = time.monotonic()
        self._known[days] = _Known(figures, now, now - began)
