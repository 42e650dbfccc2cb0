"""One simulation from its plan to its verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import httpx
import jwt

from bridge.simulate.accounts import ACCOUNTS, with_room
from bridge.simulate.database import PREFIX, Database, Schedule
from bridge.simulate.ledger import Fate, invariants, news_of, read_fates, tell_story
from bridge.simulate.plan import Plan, draw
from bridge.simulate.play import Play
from bridge.simulate.records import Counts, Record
from bridge.simulate.stage import BRIDGES, WORKERS, Stage, standing
from bridge.simulate.strikes import Strikes
from bridge.simulate.verdict import Verdict, judge, wrongs_of

__all__ = ["Options", "Report", "Suspect", "Watcher", "simulate"]

PATIENCE_SECONDS = {"quick": 120.0, "default": 1020.0}  # a little longer than the longest of the first three waits
_STORIES = 10
_AFTERWARDS_SECONDS = 2.0  # for what should not come any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. ``patience``: seconds without any progress after which waiting ends."""

    purchases: int
    seed: int
    faults: frozenset[str]
    rate: float
    providers: tuple[str, ...]
    concurrency: int
    schedule: Schedule
    logs: Path | None = None
    bridges: int = BRIDGES
    workers: int = WORKERS
    patience: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A purchase that went wrong, and everything that is known of it, in order."""

    number: int
    provider: str
    product: str
    faults: Sequence[str]
    wrongs: Sequence[str]
    story: Sequence[tuple[datetime, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict and what belongs to it. Seconds."""

    options: Options
    verdict: Verdict
    suspects: Sequence[Suspect]
    playing: float
    settling: float


class Watcher(Protocol):
    """Is told what goes on."""

    def phase(self, name: str) -> None:
        """A new phase begins."""

    def tick(self, counts: Counts) -> None:
        """Some time has passed."""


@dataclass(slots=True)
class _Run:
    options: Options
    database: Database
    stage: Stage
    plan: Plan
    records: list[Record]
    play: Play
    counts: Counts
    finished: set[UUID] = field(default_factory=set)

    async def watch(self) -> None:
        """Learn which purchases are through."""
        while True:
            waiting = [record for record in self.records if record.agreed and record.user_id not in self.finished]
            finished, completed = await news_of(self.database, self.stage.accounts, waiting)
            self.finished |= finished
            await self.play.heard_of(finished, completed)
            self.counts.settled, self.counts.unsettled = len(self.finished), len(waiting) - len(finished)
            await asyncio.sleep(0.5)

    async def hurry(self) -> None:
        """Where waits are short, a claim is too."""
        while self.options.schedule == "quick":
            await self.database.give_claims_back()
            await asyncio.sleep(5.0)

    async def play_all(self) -> None:
        """As many at once as wanted; strikes when it is their time."""
        strikes = Strikes(self.stage, self.play, self.counts, self.plan.strikes)
        todo = iter(self.records)
        async with asyncio.TaskGroup() as group:
            for _ in range(self.options.concurrency):
                group.create_task(self._lane(todo, strikes, group))

    async def settle(self) -> None:
        """Wait until everything is through, or nothing has moved for longer than it should take."""
        patience = self.options.patience or PATIENCE_SECONDS[self.options.schedule]
        known, moved_at = -1, time.monotonic()
        while time.monotonic() - moved_at < patience:
            await asyncio.sleep(0.5)
            waiting = sum(record.agreed and record.user_id not in self.finished for record in self.records)
            if not waiting:
                break
            if waiting != known:
                known, moved_at = waiting, time.monotonic()
        await self.play.give_up()
        await self.play.finish()
        await asyncio.sleep(_AFTERWARDS_SECONDS)

    async def _lane(self, todo: Iterator[Record], strikes: Strikes, group: asyncio.TaskGroup) -> None:
        for record in todo:
            for strike in strikes.due(record.purchase.number):
                group.create_task(strikes.carry_out(strike))
            await self.play.play(record)


async def simulate(options: Options, database: Database, watcher: Watcher) -> Report:
    """Play everything, wait until it has settled, and judge. Leaves no process behind, however it ends."""
    plan = draw(options.seed, options.purchases, options.faults, options.rate, options.providers)
    accounts = {name: ACCOUNTS[name]() for name in options.providers}
    with_room(accounts.values())
    watcher.phase("starting bridges and workers")
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    async with (
        standing(database, accounts, logs=options.logs, bridges=options.bridges, workers=options.workers) as stage,
        httpx.AsyncClient(timeout=40.0, limits=limits) as client,
    ):
        counts = Counts()
        records = _buyers(plan, stage.jwt_secret)
        await asyncio.to_thread(database.furnish, {record.user_id: _address(plan, record) for record in records})
        run = _Run(options, database, stage, plan, records, Play(stage, counts, client), counts)
        playing, settling = await _played(run, watcher)
        watcher.phase("comparing the books")
        fates = await read_fates(database, accounts, records)
        verdict = judge(fates, await invariants(database), counts, stage.fell_over)
        suspects = [await _suspect(database, fate) for fate in verdict.suspects[:_STORIES]]
    return Report(options=options, verdict=verdict, suspects=suspects, playing=playing, settling=settling)


async def _played(run: _Run, watcher: Watcher) -> tuple[float, float]:
    """Seconds of playing and of settling. What goes on beside them ends with them, and they with it if it fails."""
    async with asyncio.TaskGroup() as group:
        works = (run.watch(), run.hurry(), run.play.deliver_captures(), _tick(watcher, run.counts))
        beside = [group.create_task(work) for work in works]
        try:
            began = time.monotonic()
            watcher.phase("playing")
            await run.play_all()
            played = time.monotonic()
            watcher.phase("settling")
            await run.settle()
            return played - began, time.monotonic() - played
        finally:
            run.play.stop()
            for task in beside:
                task.cancel()


async def _suspect(database: Database, fate: Fate) -> Suspect:
    return Suspect(
        number=fate.record.purchase.number,
        provider=fate.record.purchase.provider,
        product=fate.record.purchase.product,
        faults=sorted(fate.record.faults),
        wrongs=list(wrongs_of(fate)),
        story=await tell_story(database, fate.record),
    )


def _buyers(plan: Plan, secret: str) -> list[Record]:
    """A user for each purchase, so that nothing that is granted can hide behind another purchase."""
    now = int(time.time())
    claims = {"role": "authenticated", "aud": "authenticated", "iat": now, "exp": now + 86_400}
    records = []
    for purchase in plan.purchases:
        user_id = uuid4()
        token = jwt.encode(claims | {"sub": str(user_id)}, secret, "HS256")
        records.append(Record(purchase=purchase, user_id=user_id, token=token))
    return records


def _address(plan: Plan, record: Record) -> str:
    return f"{PREFIX}{plan.seed}_{record.user_id}@example.test"


async def _tick(watcher: Watcher, counts: Counts) -> None:
    while True:
        watcher.tick(counts)
        await asyncio.sleep(0.25)
