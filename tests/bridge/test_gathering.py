"""Outcomes that share a transaction: who waits for whom, and that nobody pays for another."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psycopg

from bridge.errors import DatabaseUnavailable, PaymentReused
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.rpc.gathering import Gathering
from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, logged_url, running_bridge, statements_of
from tests.support.database import Database, Row
from tests.support.races import all_at_once


@dataclass
class Journal:
    """A database that writes down how it was called, and answers when it is told to."""

    alone: list[int] = field(default_factory=list)
    together: list[list[int]] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Callable[[Sequence[Mapping[str, Any]]], Sequence[Any] | None] = list

    async def make_alone(self, call: Mapping[str, Any]) -> Any:
        self.alone.append(call["n"])
        await self.free.wait()
        await asyncio.sleep(0)
        if call.get("error"):
            raise call["error"]
        return call

    async def make_together(self, calls: Sequence[Mapping[str, Any]]) -> Sequence[Any] | None:
        self.together.append([call["n"] for call in calls])
        await self.free.wait()
        await asyncio.sleep(0)
        return self.answer(calls)

    async def call(self, *calls: Mapping[str, Any], most: int = 4) -> list[Any]:
        """Make these calls at the same time; the database is free once all have arrived."""
        gathering = Gathering(self.make_alone, self.make_together, most)
        running = [asyncio.create_task(gathering.call(call)) for call in calls]
        await asyncio.sleep(0)
        self.free.set()
        return await asyncio.gather(*running, return_exceptions=True)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"n": n} for n in range(count)]


class TestGathering:
    def test_the_first_two_go_at_once_and_the_rest_together(self) -> None:
        async def work() -> None:
            journal, calls = Journal(), numbered(8)
            assert await journal.call(*calls) == calls
            assert (journal.alone, journal.together) == ([0, 1], [[2, 3, 4, 5], [6, 7]])

        asyncio.run(work())

    def test_one_per_call_is_none_together(self) -> None:
        async def work() -> None:
            journal, calls = Journal(), numbered(5)
            assert await journal.call(*calls, most=1) == calls
            assert (journal.alone, journal.together) == ([0, 1, 2, 3, 4], [])

        asyncio.run(work())

    def test_what_is_not_answered_is_made_alone_and_its_error_is_its_own(self) -> None:
        async def work() -> None:
            error = PaymentReused("No.")
            calls: list[dict[str, Any]] = [*numbered(3), {"n": 3, "error": error}, {"n": 4}, {"n": 5}]
            journal = Journal(answer=lambda calls: [calls[0], None, calls[2], None])
            assert await journal.call(*calls) == [*calls[:3], error, *calls[4:]]
            assert (journal.alone, journal.together) == ([0, 1, 3, 5], [[2, 3, 4, 5]])

        asyncio.run(work())

    def test_nobody_waits_for_an_answer_that_is_missing(self) -> None:
        async def work() -> None:
            journal, calls = Journal(answer=lambda calls: [calls[0]]), numbered(5)
            assert await asyncio.wait_for(journal.call(*calls), 10) == calls
            assert (journal.alone, journal.together) == ([0, 1, 3, 4], [[2, 3, 4]])

        asyncio.run(work())

    def test_when_the_whole_call_fails_each_is_made_alone(self) -> None:
        async def work() -> None:
            def fail(_: object) -> None:
                raise DatabaseUnavailable("No.")

            journal, calls = Journal(answer=fail), numbered(5)
            assert await journal.call(*calls) == calls
            assert (journal.alone, journal.together) == ([0, 1, 2, 3, 4], [[2, 3, 4]])

        asyncio.run(work())

    def test_a_database_that_wants_them_alone_is_asked_once(self) -> None:
        async def work() -> None:
            journal = Journal(answer=lambda _: None)
            gathering = Gathering(journal.make_alone, journal.make_together, 16)
            journal.free.set()
            for _ in range(2):
                await asyncio.gather(*(gathering.call(call) for call in numbered(5)))
            assert journal.together == [[2, 3, 4]]
            assert journal.alone == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]

        asyncio.run(work())

    def test_a_request_that_is_cancelled_takes_nobody_with_it(self) -> None:
        async def work() -> None:
            journal, calls = Journal(), numbered(5)
            gathering = Gathering(journal.make_alone, journal.make_together, 16)
            running = [asyncio.create_task(gathering.call(call)) for call in calls]
            await asyncio.sleep(0)
            running[0].cancel()  # in a lane
            running[3].cancel()  # waiting
            await asyncio.sleep(0)
            journal.free.set()
            ended = await asyncio.gather(*running, return_exceptions=True)
            assert [ended[n] for n in (1, 2, 4)] == [calls[n] for n in (1, 2, 4)]
            assert all(isinstance(ended[n], asyncio.CancelledError) for n in (0, 3))
            assert await gathering.call({"n": 9}) == {"n": 9}  # and no lane was lost
            assert (journal.alone, journal.together) == ([0, 1, 9], [[2, 4]])

        asyncio.run(work())


def sell(bridge: Bridge, stripe: StripeSimulator, count: int) -> tuple[list[uuid.UUID], list[Row]]:
    """So many buyers, and for each the event that says that they have paid."""
    buyers = [bridge.buyer() for _ in range(count)]
    pages = [bridge.attempt(buyer.checkout(provider="stripe").json()["session_id"]) for buyer in buyers]
    return [buyer.id for buyer in buyers], [stripe.pay(page["provider_session_id"])[-1] for page in pages]


def deliver(bridge: Bridge, stripe: StripeSimulator, events: list[Row]) -> list[str]:
    """All at the same time; what became of each."""
    answers = all_at_once([lambda event=event: bridge.deliver("stripe", stripe.sign(event)) for event in events])  # type: ignore[misc]
    return [answer.json()["result"] for answer in answers]


class TestWebhooks:
    def test_a_crowd_is_applied_once_each_in_fewer_transactions(self, db: Database, stripe: StripeSimulator) -> None:
        with running_bridge(db, stripe) as bridge:
            buyers, events = sell(bridge, stripe, 24)
            assert sorted(deliver(bridge, stripe, events + events)) == ["applied"] * 24 + ["duplicate"] * 24
        assert [db.balance(buyer) for buyer in buyers] == [100] * 24
        times = "select count(distinct received_at) from payments.webhook_events where status = 'handled'"
        assert 1 < db.value(times) < 24

    def test_one_per_call_is_a_call_each(self, db: Database, server: LocalPostgres, stripe: StripeSimulator) -> None:
        with running_bridge(db, stripe, outcomes_per_call=1, database_url=logged_url(db)) as bridge:
            _, events = sell(bridge, stripe, 12)
            with statements_of(bridge, server) as statements:
                assert deliver(bridge, stripe, events) == ["applied"] * 12
        made = [statement.replace('"', "").partition("(")[0] for statement in statements if "apply_" in statement]
        assert made == ["select public.apply_payment_outcome"] * 12

    def test_those_behind_a_lock_keep_nobody_waiting(self, db: Database, stripe: StripeSimulator) -> None:
        with running_bridge(db, stripe) as bridge, ThreadPoolExecutor(2) as pool:
            buyers, events = sell(bridge, stripe, 12)
            with psycopg.connect(db.url(SUPERUSER)) as other:
                other.execute(
                    "select from public.payment_checkout_sessions where user_id = any(%s) for update", [buyers[:2]]
                )
                held = pool.submit(deliver, bridge, stripe, events[:2])
                assert deliver(bridge, stripe, events[2:]) == ["applied"] * 10
                assert [db.balance(buyer) for buyer in buyers] == [0] * 2 + [100] * 10
            assert held.result(30) == ["applied"] * 2
        assert [db.balance(buyer) for buyer in buyers] == [100] * 12

    def test_one_that_is_refused_is_told_why_and_its_neighbours_are_applied(
        self, db: Database, stripe: StripeSimulator
    ) -> None:
        with running_bridge(db, stripe) as bridge:
            buyers, events = sell(bridge, stripe, 12)
            payment = events[0]["data"]["object"]["payment_intent"]
            assert deliver(bridge, stripe, events[:1]) == ["applied"]
            events[5]["data"]["object"]["payment_intent"] = payment  # of another purchase
            assert deliver(bridge, stripe, events[1:]) == ["applied"] * 4 + ["refused"] + ["applied"] * 6
            (kept,) = db.sql("select event_id, error from payments.webhook_events where status <> 'handled'")
            assert tuple(kept.values()) == (events[5]["id"], "payment_reused")
        assert [db.balance(buyer) for buyer in buyers] == [100] * 5 + [0] + [100] * 6
