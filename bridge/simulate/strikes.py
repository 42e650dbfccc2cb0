"""Kills what the plan says, when as many purchases have begun, whatever is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bridge.simulate.accounts import trouble
from bridge.simulate.plan import Strike
from bridge.simulate.play import Play
from bridge.simulate.records import Counts
from bridge.simulate.stage import Stage

__all__ = ["Strikes"]


class Strikes:
    """Carries out the strikes of a plan."""

    def __init__(self, stage: Stage, play: Play, counts: Counts, strikes: Iterable[Strike]) -> None:
        self._stage = stage
        self._play = play
        self._counts = counts
        self._waiting = sorted(strikes, key=lambda strike: strike.after, reverse=True)
        self._one_at_a_time = asyncio.Lock()

    def due(self, number: int) -> list[Strike]:
        """Those that befall now that purchase ``number`` begins; each once."""
        due = []
        while self._waiting and self._waiting[-1].after <= number:
            due.append(self._waiting.pop())
        return due

    async def carry_out(self, strike: Strike) -> None:
        """Strike, after its delay."""
        await asyncio.sleep(strike.delay)
        match strike.kind:
            case "outage":
                await self._outage(strike)
            case "bridge":
                self._note(strike, "kill -9 of a bridge")
                self._stage.bridges[strike.which % len(self._stage.bridges)].kill()
            case "worker":
                self._note(strike, "kill -9 of a worker")
                self._stage.workers[strike.which % len(self._stage.workers)].kill()
            case "database":
                async with self._one_at_a_time:
                    self._note(strike, self._stage.database.kind_of_strike(strike.which))
                    await self._stage.database.strike(strike.which)

    async def _outage(self, strike: Strike) -> None:
        account = self._stage.accounts[strike.provider]
        self._note(strike, f"outage of a provider ({strike.trouble})")
        account.weather = trouble(strike.trouble)
        await asyncio.sleep(strike.seconds)
        account.weather = None

    def _note(self, strike: Strike, what: str) -> None:
        self._counts.strikes[what] += 1
        for record in self._play.under_way.values():
            if strike.kind != "outage" or record.purchase.provider == strike.provider:
                if strike.fault not in record.struck:
                    self._counts.injected[strike.fault] += 1
                record.struck.add(strike.fault)
                record.tell(what)
