"""Outcomes that arrive at the same time share a transaction: a commit and a round trip cost more than most outcomes."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple

from bridge.errors import PgcheckoutError

__all__ = ["Gathering"]

_LANES = 2  # one is at work while the other waits for its commit; more of them gather less
_PATIENCE_SECONDS = 0.1  # as in apply_payment_outcomes


class _Waiter(NamedTuple):
    call: Mapping[str, Any]
    answer: asyncio.Future[Any]


class Gathering:
    """Makes calls at once while the database keeps up, and gathers those that come while it does not.

    ``alone`` makes a call, or raises. ``together`` makes several and answers what each answers, None for those that it
    did not make; None instead of answers when calls are to be made alone (a router spreads them, a shop has handlers of
    its own).
    What is not made together is made alone, so an error is always that of one call, and raised to its caller only.
    """

    def __init__(
        self,
        alone: Callable[[Mapping[str, Any]], Awaitable[Any]],
        together: Callable[[Sequence[Mapping[str, Any]]], Awaitable[Sequence[Any] | None]],
        most: int,
    ) -> None:
        self._alone = alone
        self._together = together
        self._most = most
        self._lanes = 0  # in use
        self._waiting: deque[_Waiter] = deque()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no hold of them

    async def call(self, call: Mapping[str, Any]) -> Any:
        """Make one call, perhaps together with others. Raises what ``alone`` raises."""
        if self._most == 1:
            return await self._alone(call)
        if self._lanes < _LANES:
            leave = self._enter()
            try:
                return await self._alone(call)
            finally:
                leave()
        waiter = _Waiter(call, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        answer = await waiter.answer
        return await self._alone(call) if answer is None else answer

    def _enter(self) -> Callable[[], None]:
        """Take a lane; answers how to leave it. Whoever stands behind a lock is out of the others' way soon."""
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                patience.cancel()
                self._lanes -= 1
                self._gather()

        self._lanes += 1
        patience = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, leave)
        return leave

    def _next(self) -> list[_Waiter]:
        waiters: list[_Waiter] = []
        while self._waiting and len(waiters) < self._most:
            waiter = self._waiting.popleft()
            if not waiter.answer.done():  # else its request was cancelled meanwhile
                waiters.append(waiter)
        return waiters

    def _gather(self) -> None:
        while self._lanes < _LANES and (waiters := self._next()):
            # what it logs belongs to none of the requests
            task = asyncio.create_task(self._work(waiters, self._enter()), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, waiters: list[_Waiter], leave: Callable[[], None]) -> None:
        answers: Iterable[Any] | None = None
        try:
            answers = await self._together([waiter.call for waiter in waiters])
            if answers is None:
                self._most = 1
        except PgcheckoutError:
            pass  # made alone, each call gets its own error, if any
        finally:
            leave()
            # nobody may wait for an answer that does not come
            for waiter, answer in zip(waiters, chain(answers or (), repeat(None)), strict=False):
                if not waiter.answer.done():
                    waiter.answer.set_result(answer)
