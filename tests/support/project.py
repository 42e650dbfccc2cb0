"""A Supabase project on this machine, as a browser meets it: PostgREST behind a gateway, and anonymous sign-in.

PostgREST is real. The gateway and ``/auth/v1/signup`` are stand-ins for what cannot run here.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.local.serving import listening, serving
from tests.support.postgrest import AsyncGateway, Keys, postgrest

__all__ = ["supabase_project"]

_DAY = 86_400
_NOT_FORWARDED = {"host", "accept-encoding", "connection"}
_NOT_RETURNED = {"transfer-encoding", "connection", "date", "server"}


@contextlib.contextmanager
def supabase_project(binary: Path, database_url: str, keys: Keys) -> Iterator[str]:
    """Serve the project of this database (the owner's URL) on a free port; yields its URL."""
    authenticator = database_url.replace("postgres@", "authenticator@", 1)
    with (
        postgrest(binary, authenticator, keys) as api,
        listening() as listener,
        serving(_gateway(api, database_url, keys), listener) as url,
    ):
        yield url


def _gateway(api: str, database_url: str, keys: Keys) -> Starlette:
    async def rest(request: Request) -> Response:
        async with httpx.AsyncClient(transport=AsyncGateway(keys), base_url=api) as http:
            headers = [(name, value) for name, value in request.headers.items() if name not in _NOT_FORWARDED]
            url = httpx.URL(path=request.url.path, query=request.url.query.encode())
            answer = await http.request(request.method, url, headers=headers, content=await request.body())
        kept = {name: value for name, value in answer.headers.items() if name not in _NOT_RETURNED}
        return Response(answer.content, answer.status_code, kept)

    def sign_up(_: Request) -> Response:
        """A new anonymous user and an access token, in the form of Supabase Auth."""
        user: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "aud": "authenticated",
            "role": "authenticated",
            "is_anonymous": True,
        }
        user |= {"app_metadata": {}, "user_metadata": {}, "created_at": datetime.now(UTC).isoformat()}
        with psycopg.connect(database_url) as connection:
            connection.execute("insert into auth.users (id) values (%s)", (user["id"],))
        token = keys.token("HS256", "authenticated", user["id"], expires_in=_DAY, is_anonymous=True)
        session = {"access_token": token, "token_type": "bearer", "expires_in": _DAY, "refresh_token": uuid.uuid4().hex}
        return JSONResponse({**session, "user": user})

    def sign_out(_: Request) -> Response:
        return Response(status_code=204)

    routes = [
        Route("/rest/v1/{path:path}", rest, methods=["GET", "HEAD", "POST", "PATCH", "DELETE"]),
        Route("/auth/v1/signup", sign_up, methods=["POST"]),
        Route("/auth/v1/logout", sign_out, methods=["POST"]),
    ]
    anybody = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    return Starlette(routes=routes, middleware=[anybody])
