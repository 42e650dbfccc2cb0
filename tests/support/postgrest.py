"""The real PostgREST in front of a test's database, and the little of Supabase's gateway that its clients rely on."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

__all__ = ["PUBLISHABLE", "SECRET", "AsyncGateway", "Gateway", "Keys", "postgrest"]

PUBLISHABLE, SECRET = "sb_publishable_test", "sb_secret_test"

_PREFIX = "/rest/v1"
# all is plain HTTP on loopback: loading the certificate authorities for each client would only take time
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Keys:
    """A project's signing keys: the legacy shared secret (HS256) and a key pair with a published half (ES256)."""

    shared_secret: str = "a-shared-secret-of-more-than-32-bytes"
    private_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def jwks(self) -> str:
        """What PostgREST takes as jwt-secret: both keys as a JWK set."""
        octets = jwt.utils.base64url_encode(self.shared_secret.encode()).decode()
        public = json.loads(ECAlgorithm.to_jwk(self.private_key.public_key()))
        return json.dumps(
            {
                "keys": [
                    {"kty": "oct", "kid": "shared", "alg": "HS256", "k": octets},
                    public | {"kid": "pair", "alg": "ES256"},
                ]
            }
        )

    def token(
        self, algorithm: str, role: str, subject: str | None = None, *, expires_in: int = 600, **claims: Any
    ) -> str:
        """An access token as Supabase Auth issues them."""
        now = int(time.time())
        payload = {"role": role, "aud": "authenticated", "iat": now, "exp": now + expires_in, **claims}
        if subject:
            payload["sub"] = subject
        key, kid = (self.private_key, "pair") if algorithm == "ES256" else (self.shared_secret, "shared")
        return jwt.encode(payload, key, algorithm, headers={"kid": kid})


class _Gateway:
    """The gateway's rule: a real JWT in Authorization wins; else the project's API key stands for its role's JWT."""

    def __init__(self, keys: Keys) -> None:
        self._roles = {
            PUBLISHABLE: keys.token("HS256", "anon"),
            SECRET: keys.token("HS256", "service_role"),
        }

    def forward(self, request: httpx.Request) -> None:
        path = request.url.raw_path.decode().removeprefix(_PREFIX)
        request.url = request.url.copy_with(raw_path=path.encode())
        if request.headers.get("authorization", "").startswith(("Bearer sb_", "sb_")):
            request.headers["authorization"] = f"Bearer {self._roles[request.headers['apikey']]}"


class Gateway(httpx.HTTPTransport):
    """httpx transport that turns what Supabase clients send into what PostgREST receives."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(verify=_NO_TLS)
        self._gateway = _Gateway(keys)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._gateway.forward(request)
        return super().handle_request(request)


class AsyncGateway(httpx.AsyncHTTPTransport):
    """The same for the asynchronous client."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(verify=_NO_TLS)
        self._gateway = _Gateway(keys)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._gateway.forward(request)
        return await super().handle_async_request(request)


@contextlib.contextmanager
def postgrest(binary: Path, database_url: str, keys: Keys, *, pool: int = 4) -> Iterator[str]:
    """Run PostgREST on loopback, as nobody when we are root; yields its URL once it answers."""
    port = _free_port()
    owner = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    settings = {
        "PGRST_DB_URI": database_url,
        "PGRST_DB_SCHEMAS": "public",
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
        "PGRST_DB_POOL": str(pool),
        "PGRST_JWT_SECRET": keys.jwks(),
        "PGRST_SERVER_HOST": "127.0.0.1",
        "PGRST_SERVER_PORT": str(port),
    }
    with tempfile.TemporaryDirectory(prefix="postgrest-") as folder, (Path(folder) / "log").open("w+b") as log:
        Path(folder).chmod(0o755)
        program = shutil.copy(binary, folder)  # the original may be in a folder that nobody cannot enter
        with subprocess.Popen([program], env=settings, cwd="/", stdout=log, stderr=log, **owner) as process:  # type: ignore[call-overload]
            try:
                _wait_until(lambda: _answers(f"http://127.0.0.1:{port}"), process, Path(folder) / "log")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.ConnectError):
        return httpx.get(f"{url}/payment_products?limit=0", verify=_NO_TLS).status_code == httpx.codes.OK
    return False


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgREST did not start: {log.read_text()}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
