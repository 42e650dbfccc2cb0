"""A stand-in for api.stripe.com: the part of Stripe that the adapter uses, over real HTTP, with buyers and faults.

Behaves as docs.stripe.com/api says (sessions, refunds, disputes, idempotent requests, errors), API version
2026-10-28.endive. It is strict: what Stripe would refuse, it refuses.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.support.stripe_world import API_VERSION, Json, StripeWorld

__all__ = ["Fault", "Received", "StripeSimulator"]

CREATE_PARAMETERS = frozenset({
    "mode", "client_reference_id", "metadata", "payment_intent_data", "line_items", "success_url", "cancel_url",
    "expires_at", "customer_email", "locale", "submit_type",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one request.

    With a ``status``, the request is not worked on; ``stored`` keeps that answer under the idempotency key. With
    ``lost``, the work is done and the connection drops before the answer; ``cut`` sends half of the answer.
    """

    status: int | None = None
    body: bytes = b'{"error": {"type": "api_error", "message": "scripted"}}'
    headers: Mapping[str, str] = field(default_factory=dict)
    latency: float = 0.0
    stored: bool = False
    lost: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Received:
    """One request as it came in; ``values`` is its form or query, not yet nested."""

    method: str
    path: str
    values: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What Stripe says; kept under the idempotency key when the request was executed."""

    status: int
    body: bytes
    parameters: str = ""
    executed: bool = True
    replayed: bool = False


class Refusal(Exception):
    """An error of Stripe's."""

    def __init__(self, message: str, *, code: str = "parameter_invalid", status: int = 400, param: str = "") -> None:
        super().__init__(message)
        kind = "idempotency_error" if code == "idempotency_error" else "invalid_request_error"
        error = {"type": kind, "code": code, "message": message, "param": param}
        self.answer = Answer(status, json.dumps({"error": error}).encode(), executed=False)


class StripeSimulator(StripeWorld):
    """A Stripe account behind an HTTP API. Use as a context manager; ``url`` is its address."""

    def __init__(self, *, livemode: bool = False) -> None:
        super().__init__(livemode=livemode)
        self.faults: deque[Fault] = deque()
        self.received: list[Received] = []
        self._answers: dict[str, Answer] = {}
        self._in_flight: set[str] = set()

    def __enter__(self) -> Self:
        app = Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "POST"])])
        config = uvicorn.Config(app, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=1)
        # asyncio only turns Nagle's delay (40 ms per answer) off where the protocol is named
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    # what arrives over HTTP

    async def _serve(self, request: Request) -> Response:
        pairs = parse_qsl((await request.body()).decode() or request.url.query, keep_blank_values=True)
        received = Received(request.method, request.url.path, dict(pairs), dict(request.headers))
        self.received.append(received)
        fault = self.faults.popleft() if self.faults else Fault()
        key = received.headers.get("idempotency-key", "")
        if key and key in self._in_flight:
            in_use = "Another request with this key is in progress."
            answer = Refusal(in_use, code="idempotency_key_in_use", status=409).answer
        else:
            self._in_flight.add(key)
            try:
                answer = self._answer(received, key, fault)
                await asyncio.sleep(fault.latency)
            finally:
                self._in_flight.discard(key)
        headers = {"Request-Id": f"req_{secrets.token_hex(7)}", "Content-Type": "application/json", **fault.headers}
        if answer.replayed:
            headers["Idempotent-Replayed"] = "true"
        if fault.lost or fault.cut:  # the announced length never arrives: the server closes the connection
            rest = iter([answer.body[: len(answer.body) // 2]] if fault.cut else [])
            return StreamingResponse(rest, answer.status, {**headers, "Content-Length": str(len(answer.body))})
        return Response(answer.body, answer.status, headers)

    def _answer(self, received: Received, key: str, fault: Fault) -> Answer:
        try:
            return self._execute(received, key, fault)
        except Refusal as refusal:
            return refusal.answer

    def _execute(self, received: Received, key: str, fault: Fault) -> Answer:
        if received.headers.get("authorization") != f"Bearer {self.secret_key}":
            raise Refusal("Invalid API Key provided.", code="api_key_invalid", status=401)
        if received.headers.get("stripe-version") != API_VERSION:
            raise Refusal("Invalid Stripe API version.")
        parameters = json.dumps(received.values, sort_keys=True)
        if key in self._answers:
            if self._answers[key].parameters != parameters:
                raise Refusal("Keys can only be used with the same parameters.", code="idempotency_error")
            return replace(self._answers[key], replayed=True)
        if fault.status:
            answer = Answer(fault.status, fault.body, parameters, executed=fault.stored)
        else:
            answer = Answer(200, json.dumps(self._work(received)).encode(), parameters)
        if key and answer.executed:
            self._answers[key] = answer
        return answer

    def _work(self, received: Received) -> Json:
        values = received.values
        match received.method, received.path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                form = nested(values)
                check_session(form)
                return self.create_session(form)
            case "GET", ["checkout", "sessions", str(name)]:
                return self._expanded(self._find(name), values.get("expand[]", ""))
            case "POST", ["checkout", "sessions", str(name), "expire"]:
                if self._find(name)["status"] != "open":
                    raise Refusal('Only Checkout Sessions with a status in ["open"] can be expired.', code="not_open")
                self.expire(name)
                return self._find(name)
            case "GET", ["payment_intents", str(name)]:
                return self._find(name)
            case "GET", ["refunds" | "disputes" as kind]:
                return self._list(kind.removesuffix("s"), values)
        raise Refusal("Unrecognized request URL.", status=404)

    def _find(self, name: str) -> Json:
        if name not in self.objects:
            raise Refusal(f"No such object: '{name}'", code="resource_missing", status=404)
        return self.objects[name]

    def _expanded(self, session: Json, path: str) -> Json:
        answer = node = dict(session)
        for name in filter(None, path.split(".")):
            if node.get(name) is None:
                break
            node[name] = dict(self._find(node[name]))
            node = node[name]
        return answer

    def _list(self, kind: str, values: Mapping[str, str]) -> Json:
        everything = list(self.objects.values())
        found = [o for o in everything if o["object"] == kind and o["payment_intent"] == values["payment_intent"]]
        ids = [listed["id"] for listed in found]
        start = ids.index(values["starting_after"]) + 1 if "starting_after" in values else 0
        end = start + int(values.get("limit", "10"))
        return {"object": "list", "data": found[start:end], "has_more": end < len(found), "url": f"/v1/{kind}s"}


def nested(values: Mapping[str, str]) -> Json:
    """``{"a[b][0]": "c"}`` as ``{"a": {"b": {"0": "c"}}}``."""
    root: Json = {}
    for name, value in values.items():
        *parents, last = re.findall(r"[^\[\]]+", name)
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root


def check_session(form: Json) -> None:
    """Refuse what Stripe refuses."""
    if unknown := sorted(form.keys() - CREATE_PARAMETERS):
        raise Refusal(f"Received unknown parameter: {unknown[0]}", code="parameter_unknown", param=unknown[0])
    try:
        item = form["line_items"]["0"]
        price: Json = item["price_data"]
        amount, currency, lives = (
            int(price["unit_amount"]),
            price["currency"],
            float(form.get("expires_at", time.time() + 86_000)),
        )
        given = (form["mode"], item["quantity"], price["product_data"]["name"], form["success_url"])
    except (KeyError, TypeError, ValueError) as wrong:
        raise Refusal("Missing required param, or no integer.", code="parameter_missing", param=str(wrong)) from None
    metadata = [*form.get("metadata", {}).items(), *form.get("payment_intent_data", {}).get("metadata", {}).items()]
    last_digits = {"isk": 100, "ugx": 100, "bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10}.get(currency, 1)
    for bad, what in (
        (given[:2] != ("payment", "1"), "mode"),
        (not given[2], "line_items[0][price_data][product_data][name]"),
        (not given[3].startswith(("http://", "https://")), "success_url"),
        (not re.fullmatch("[a-z]{3}", currency), "currency"),
        (not 1 <= amount <= 99_999_999 or amount % last_digits != 0, "line_items[0][price_data][unit_amount]"),
        (not 1800 <= lives - time.time() <= 86_400, "expires_at"),
        (len(form.get("client_reference_id", "")) > 200, "client_reference_id"),
        ("@" not in form.get("customer_email", "@"), "customer_email"),
        (len(metadata) > 50 or any(len(k) > 40 or len(v) > 500 for k, v in metadata), "metadata"),
    ):
        if bad:
            raise Refusal(f"Invalid {what}.", param=what)
