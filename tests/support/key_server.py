"""A real HTTP server that publishes a project's signing keys, and can be away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.local.serving import listening, serving

__all__ = ["KeyServer", "key_server", "public_key"]


class KeyServer:
    """``keys`` is what it publishes, ``answer`` replaces its answer, ``asked`` counts."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[dict[str, Any]] = []
        self.answer: Response | None = None
        self.asked = 0

    async def serve(self, _: Request) -> Response:
        self.asked += 1
        return self.answer or Response(json.dumps({"keys": self.keys}), media_type="application/json")


@contextlib.contextmanager
def key_server() -> Iterator[KeyServer]:
    """Serve until the end of the block."""
    server = KeyServer()
    path = "/auth/v1/.well-known/jwks.json"
    with listening() as listener, serving(Starlette(routes=[Route(path, server.serve)]), listener) as address:
        server.url = address
        yield server


def public_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str) -> dict[str, Any]:
    """The published half of a key pair."""
    if isinstance(key, rsa.RSAPrivateKey):
        return {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": name, "alg": "RS256"}
    return {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": name, "alg": "ES256"}
