"""The least that a Python web server can do: the floor of the HTTP benchmark."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["app"]


async def _hello(request: Request) -> Response:
    await request.body()
    return PlainTextResponse("hello")


app = Starlette(routes=[Route("/", _hello, methods=["POST"]), Route("/healthz", _hello)])
