"""What the database says of itself, without being asked by every scraper."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from bridge.errors import PgcheckoutError
from bridge.rpc import Rpc

__all__ = ["Figures", "stale_workers"]

log = logging.getLogger("pgcheckout")

FRESH_SECONDS = 10.0
# Prometheus waits for 10
PATIENCE_SECONDS = 4.0
# as payments.current_incidents has it; workers beat every 15
STALE_SECONDS = 120


class Figures:
    """``payment_health()``, asked for once in ten seconds however many want to know."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._asking = asyncio.Lock()
        self._until = 0.0
        self._known: Mapping[str, Any] | None = None

    async def read(self) -> Mapping[str, Any] | None:
        """What the database says; None when it does not answer."""
        async with self._asking:
            if time.monotonic() >= self._until:
                self._known = await self._ask()
                self._until = time.monotonic() + FRESH_SECONDS
            return self._known

    async def _ask(self) -> Mapping[str, Any] | None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._rpc.payment_health()
        except (PgcheckoutError, TimeoutError) as error:
            log.warning("payment_health() did not answer: %s", type(error).__name__)
            return None


def stale_workers(heartbeats: Mapping[str, int]) -> list[str]:
    """The workers that have not been seen for two minutes, of names and ages in seconds."""
    return sorted(name for name, age in heartbeats.items() if age > STALE_SECONDS)
