"""What every request meets first and every answer last, in plain ASGI: an id, headers, limits, one line of log, and
its place in the metrics.

Only what a caller does is limited in time. A handler is never cut: it may be between a provider's capture and our
record of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge import logs
from bridge.api.errors import answer, too_large, unexpected
from bridge.api.sources import address_of
from bridge.errors import InvalidRequest, PgcheckoutError, ProviderUnknown, SignatureInvalid, SourceRefused
from bridge.metrics import HTTP_REQUESTS
from bridge.settings import Settings

__all__ = ["Edge", "Limits", "Meter", "note_refusal"]

log = logging.getLogger("pgcheckout")

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET = ("/healthz", "/readyz", "/metrics")
_LOOKED_AT = (*_QUIET, "/dashboard")  # what monitors and proxies may ask for with HEAD
_YEAR = 31_536_000
_DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; connect-src 'self'; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # answers carry links to payment pages
}

Header = tuple[bytes, bytes]


class Edge:
    """The outermost layer. Adds the headers that an answer does not set itself, and logs and counts each request by the
    name of its route: what stands in its place, or behind it, may be a token."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        https = settings.public_url.scheme == "https"
        headers = _HEADERS | ({"Strict-Transport-Security": f"max-age={_YEAR}"} if https else {})
        self._headers = _encoded(headers)
        self._docs_headers = _encoded(headers | {"Content-Security-Policy": _DOCS_POLICY})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _header(scope, b"x-request-id")
        if not _ID.fullmatch(request_id):
            request_id = secrets.token_hex(16).encode()
        logs.about_request(request_id.decode())
        defaults = self._docs_headers if scope["path"] == "/docs" else self._headers
        method = scope["method"]
        if method == "HEAD" and scope["path"].startswith(_LOOKED_AT):
            scope = {**scope, "method": "GET"}  # the server leaves the body out
        began, status = time.perf_counter(), 0

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", ()))
                present = {name for name, _ in given}
                given += [header for header in defaults if header[0] not in present]
                message["headers"] = [*given, (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_more)
        finally:
            took, route = time.perf_counter() - began, _route(scope)
            HTTP_REQUESTS.labels(route, str(status or 500)).observe(took)
            level = logging.DEBUG if route in _QUIET and status < 400 else logging.INFO
            if log.isEnabledFor(level):
                said = {
                    "method": method, "route": route, "status": status,
                    "duration_ms": round(took * 1000, 1),
                }  # fmt: skip
                log.log(level, "request", extra=said)


class Limits:
    """How much callers may ask, how many at once, and how long they may take to say it. Whatever goes wrong behind it
    is logged and answered here."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._active = 0
        self._meter = Meter(settings.requests_per_minute) if settings.requests_per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await refusal(scope, receive, send)
            return
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._active += 1
        try:
            await self._app(scope, _within(receive, self._settings), send_on)
        except Exception:
            log.exception("an unexpected error")
            if started:
                raise  # half an answer must not look like a whole one
            await unexpected()(scope, receive, send)
        finally:
            self._active -= 1
            if "forged" in scope.get("state", ()):
                self._count(scope)

    def _refusal(self, scope: Scope) -> Response | None:
        returning = scope["path"].startswith("/return/")
        if self._active >= self._settings.max_concurrent_requests:
            if returning and scope["method"] == "GET":
                return _come_again(503, 1)
            return answer(503, "overloaded", "Too many requests at once.", "retry_after=1")
        if not _fits(_header(scope, b"content-length"), self._settings.max_body_bytes):
            return too_large()
        wait = self._count(scope, ahead=scope["path"].startswith("/webhooks/"))
        if not wait:
            return None
        if returning:
            # it may be the only proof of a payment: the browser keeps it and comes again; a form it cannot send again
            return _come_again(429, wait) if scope["method"] == "GET" else None
        return answer(429, "too_many_requests", "Too many requests from this address.", f"retry_after={wait}")

    def _count(self, scope: Scope, *, ahead: bool = False) -> int:
        """Seconds to wait, 0 when the request may pass. ``ahead``: only look. Private addresses are not counted: behind
        a proxy that nobody has named, all callers would be one."""
        if self._meter is None:
            return 0
        address = address_of(scope, self._settings.trusted_proxies)
        if address is None:
            return 0
        # who has an IPv6 address has 2^64 of them
        key = int(address) if address.version == 4 else int(address) >> 64
        return self._meter.wait(key, time.monotonic(), take=not ahead)


class Meter:
    """Lets each key pass so many times per minute, all at once if it likes. Remembers at most ``most`` keys: where
    there are more, those that have asked least lately start anew."""

    def __init__(self, per_minute: int, most: int = 20_000) -> None:
        self._gap = 60.0 / per_minute
        self._debt = 60.0 - self._gap
        self._most = most
        self._paid_until: dict[int, float] = {}

    def wait(self, key: int, now: float, *, take: bool = True) -> int:
        """Whole seconds until the key may pass, 0 when it may now; that counts as once, unless not ``take``."""
        paid_until = max(self._paid_until.get(key, 0.0), now)
        missing = paid_until - now - self._debt
        if missing > 1e-6:
            return math.ceil(missing - 1e-6)
        if take:
            if len(self._paid_until) >= self._most:
                self._forget(now)
            self._paid_until[key] = paid_until + self._gap
        return 0

    def __len__(self) -> int:
        return len(self._paid_until)

    def _forget(self, now: float) -> None:
        owing = sorted((until, key) for key, until in self._paid_until.items() if until > now)
        self._paid_until = {key: until for until, key in owing[-self._most // 2 :]}


def note_refusal(scope: Scope, error: PgcheckoutError) -> None:
    """Count a webhook against its address if it was not genuine, or could not be read. Genuine ones are not limited:
    providers send many from few addresses."""
    if isinstance(error, SignatureInvalid | SourceRefused | ProviderUnknown | InvalidRequest):
        scope.setdefault("state", {})["forged"] = True


def _within(receive: Receive, settings: Settings) -> Receive:
    """Receives the body of a request as long as it is neither too large nor too slow. Raises HTTPException 413, 408."""
    deadline = asyncio.get_running_loop().time() + settings.max_body_seconds
    size, complete = 0, False

    async def receive_within() -> Message:
        nonlocal size, complete
        if complete:  # from then on it only waits for the caller to go away
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None
        size += len(message.get("body", b""))
        if size > settings.max_body_bytes:
            raise HTTPException(413)
        complete = not message.get("more_body", False)
        return message

    return receive_within


def _route(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    return f"{scope.get('root_path', '')}{path}" if path else "none"


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _fits(length: bytes, most: int) -> bool:
    return len(length) < 16 and (not length.isdigit() or int(length) <= most)


def _encoded(headers: dict[str, str]) -> list[Header]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _come_again(status: int, seconds: int) -> HTMLResponse:
    body = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="{seconds}">'
        "<title>One moment</title><p>Many are coming back at once. Please keep this page open."
    )
    return HTMLResponse(body, status, {"Retry-After": str(seconds)})
