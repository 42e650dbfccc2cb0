"""What all simulated providers share: an HTTP server, scripted faults, and the deeds that tests call."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

__all__ = ["Answer", "CannotDo", "Delivery", "Fault", "Json", "Received", "Simulator", "Tell"]

Json = dict[str, Any]
Delivery = tuple[dict[str, str], bytes]
"""Headers and body of a webhook."""
Tell = Callable[[Delivery], httpx.Response]
"""Delivers a webhook now and gives the bridge's answer."""


class CannotDo(Exception):
    """This provider has no such thing."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one request.

    With a ``status``, the request is not worked on; ``stored`` keeps that answer under the idempotency key. With
    ``lost``, the work is done and the connection drops before the answer; ``cut`` sends half of the answer. With
    ``garbled``, the work is done and the answer is ``body`` with HTTP 200.
    """

    status: int | None = None
    body: bytes = b'{"error": {"type": "api_error", "message": "scripted"}}'
    headers: Mapping[str, str] = field(default_factory=dict)
    latency: float = 0.0
    stored: bool = False
    lost: bool = False
    cut: bool = False
    garbled: bool = False


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def values(self) -> dict[str, str]:
        """Its form or query."""
        return dict(parse_qsl(self.body.decode() or self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Answer:
    """What the provider says."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Simulator(ABC):
    """An account at a provider. Use as a context manager; ``url`` is the address of its API.

    Deeds return the webhooks that the provider would send, not yet delivered; a deed that this provider does not know
    raises CannotDo. ``page`` is always the address that the buyer was given (``checkout_url``), amounts are in minor
    units.
    """

    name: ClassVar[str]
    currency: ClassVar[str]
    """One that it takes, with two decimals."""
    can_be_asked: ClassVar[bool] = True
    """Whether it tells what became of a page."""

    def __init__(self) -> None:
        self.faults: deque[Fault] = deque()
        """What goes wrong with the next requests, one after the other."""
        self.weather: Fault | None = None
        """What goes wrong with every other request, for as long as it is set."""
        self.remembers = True
        """Whether ``received`` is kept."""
        self.received: list[Received] = []

    def __enter__(self) -> Self:
        """Serve from a thread of its own."""
        self._listen()
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._hang_up()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve on the running event loop: requests and deeds then take turns, however many there are of both."""
        self._listen()
        task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        try:
            yield self
        finally:
            self._server.should_exit = True
            await task
            self._hang_up()

    def _listen(self) -> None:
        app = Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
        config = uvicorn.Config(
            app, log_config=None, access_log=False, ws="none", lifespan="off", timeout_graceful_shutdown=1
        )
        # asyncio only turns Nagle's delay (40 ms per answer) off where the protocol is named
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = _Server(config)

    def _hang_up(self) -> None:
        self._socket.close()

    @abstractmethod
    def settings(self) -> Json:
        """Settings of the bridge that fit this account."""

    @abstractmethod
    def work(self, received: Received, fault: Fault) -> Answer:
        """Answer one request of the API; strict: what the provider would refuse, it refuses."""

    # what buyers and merchants do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        """The buyer pays; another amount or currency than asked for where given. ``tell`` is for providers that ask
        before they take money."""
        raise CannotDo

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        """The buyer's card is declined; the page stays open where this provider lets buyers try again."""
        raise CannotDo

    def buyer_pays_later(self, page: str, tell: Tell) -> list[Delivery]:
        """The buyer chooses a method that takes days."""
        raise CannotDo

    def money_arrives(self, page: str) -> list[Delivery]:
        """The delayed payment arrives."""
        raise CannotDo

    def page_expires(self, page: str) -> list[Delivery]:
        """The page's time at the provider is over."""
        raise CannotDo

    def return_query(self, page: str) -> str:
        """The query with which the buyer's browser comes back to the bridge."""
        raise CannotDo

    def merchant_refunds(self, page: str, amount: int | None = None) -> list[Delivery]:
        """The merchant gives money back at the provider; all that is left by default."""
        raise CannotDo

    def buyer_disputes(self, page: str) -> list[Delivery]:
        """The buyer complains at the bank."""
        raise CannotDo

    def bank_decides(self, page: str, *, won: bool) -> list[Delivery]:
        """The bank decides, for the merchant or for the buyer."""
        raise CannotDo

    def forged_return_query(self, page: str) -> str:
        """The same return, signed by somebody else; for providers whose returns are proof."""
        raise CannotDo

    # what the provider knows

    @abstractmethod
    def taken(self, page: str) -> int:
        """Minor units taken from the buyer for this page, all payments together."""

    @abstractmethod
    def given_back(self, page: str) -> int:
        """Minor units given back."""

    def forged(self, delivery: Delivery) -> Delivery:
        """The same delivery, signed by somebody else."""
        raise CannotDo

    # the server

    async def _serve(self, request: Request) -> Response:
        body = await request.body()
        received = Received(request.method, request.url.path, request.url.query, dict(request.headers), body)
        if self.remembers:
            self.received.append(received)
        fault = self.faults.popleft() if self.faults else self.weather or Fault()
        answer = await self.answer(received, fault)
        if fault.garbled:
            answer = Answer(200, fault.body)
        headers = {
            "X-Request-Id": secrets.token_hex(7), "Content-Type": "application/json", **answer.headers, **fault.headers
        }  # fmt: skip
        if fault.lost or fault.cut:  # the announced length never arrives: the server closes the connection
            rest = iter([answer.body[: len(answer.body) // 2]] if fault.cut else [])
            return StreamingResponse(rest, answer.status, {**headers, "Content-Length": str(len(answer.body) or 1)})
        return Response(answer.body, answer.status, headers)

    async def answer(self, received: Received, fault: Fault) -> Answer:
        """Work on one request, slowly where the fault says so."""
        await asyncio.sleep(fault.latency)
        if fault.status and not fault.stored:
            return Answer(fault.status, fault.body)
        return self.work(received, fault)
