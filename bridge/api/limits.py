"""Bodies are read up to a limit, whether or not they announce their length."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.api.errors import answer

__all__ = ["LimitBody"]


class _TooLarge(Exception):  # never leaves this module
    pass


class LimitBody:
    """ASGI middleware that answers 413 instead of reading more than ``limit`` bytes."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise _TooLarge
            return message

        try:
            if not announced.isdigit() or int(announced) > self._limit:
                raise _TooLarge
            await self._app(scope, counted, send)
        except _TooLarge:
            hint = f"At most {self._limit} bytes are read (PGCHECKOUT_MAX_BODY_BYTES)."
            await answer(413, "body_too_large", "The request body is too large.", hint)(scope, receive, send)
