"""Holds one request of the bridge before a chosen step, while others pass."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from bridge.rpc import PostgresTransport
from bridge.simulators.base import Answer, Fault, Received, Simulator

__all__ = ["Held", "Turnstile"]

WAIT = 30  # seconds until a request that does not come is given up


class Held:
    """A request that stands before a step, or has come to its end before it."""

    def __init__(self, request: Callable[[], Any], before: Callable[[str], bool]) -> None:
        self.before = before
        self.stands = threading.Event()
        self._goes_on = threading.Event()
        self._done: Future[Any] = Future()
        self._done.add_done_callback(lambda _: self.stands.set())
        self._thread = threading.Thread(target=self._run, args=[request], daemon=True)

    def start(self) -> None:
        """Begin, and come to the step."""
        self._thread.start()
        assert self.stands.wait(WAIT), "it came neither to the step nor to its end"

    def let_go(self) -> Any:
        """Go on to the end."""
        self._goes_on.set()
        return self._done.result(WAIT)

    @property
    def ended(self) -> bool:
        """It had fewer steps."""
        return self._done.done()

    async def wait(self) -> None:
        self.stands.set()
        assert await asyncio.to_thread(self._goes_on.wait, WAIT), "nobody let it go on"

    def _run(self, request: Callable[[], Any]) -> None:
        try:
            self._done.set_result(request())
        except Exception as error:  # noqa: BLE001 - handed to the test by the future
            self._done.set_exception(error)


class Turnstile:
    """Stands in the way of all that a bridge does: its calls of the database and its requests to providers.

    Only one request moves at a time, so the one to be held is the one that comes by.
    """

    def __init__(self) -> None:
        self._armed: Held | None = None

    def install(self, patch: pytest.MonkeyPatch, *accounts: Simulator) -> None:
        """Stand before every call of the database, and before every request that these accounts get."""
        call = PostgresTransport.call

        async def passing_call(transport: PostgresTransport, function: str, arguments: Mapping[str, Any]) -> Any:
            await self._pass(function)
            return await call(transport, function, arguments)

        patch.setattr(PostgresTransport, "call", passing_call)
        for account in accounts:
            patch.setattr(account, "answer", self._passing_answer(account.answer))

    def hold(self, request: Callable[[], Any], *, before: int | str) -> Held:
        """Begin a request and hold it before its n-th step, or before a call of the database of this name."""
        steps = 0

        def is_it(step: str) -> bool:
            nonlocal steps
            steps += 1
            return step == before or steps - 1 == before

        held = self._armed = Held(request, is_it)
        held.start()
        self._armed = None
        return held

    async def _pass(self, step: str) -> None:
        armed = self._armed
        if armed and armed.before(step):
            self._armed = None
            await armed.wait()

    def _passing_answer(self, answer: Callable[[Received, Fault], Any]) -> Callable[[Received, Fault], Any]:
        async def passing_answer(received: Received, fault: Fault) -> Answer:
            await self._pass(f"{received.method} {received.path}")
            answered: Answer = await answer(received, fault)
            return answered

        return passing_answer
