"""Who is calling? Supabase user tokens: HS256 with the project's secret, or ES256 and RS256 with its public keys; and
the tokens that operators have chosen.

Source: supabase.com/docs/guides/auth/jwts and /signing-keys.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import jwt
from pydantic import SecretStr

from bridge.errors import NotSignedIn, ProviderUnavailable
from bridge.settings import Settings

__all__ = ["Tokens", "User", "check_token"]

_KEYS_ARE_FRESH_FOR = 600.0
_ASK_AGAIN_AFTER = 10.0  # an unknown key id may be a new key, but may not make us ask all the time
_CLOCKS_DIFFER_BY = 30.0  # as PostgREST allows
_ASYMMETRIC = ("ES256", "RS256")


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user."""

    id: UUID
    email: str | None


def check_token(authorization: str | None, token: SecretStr, name: str) -> None:
    """Compare a bearer token with ours, in constant time. Raises NotSignedIn, with the name that it goes by."""
    if not hmac.compare_digest((authorization or "").encode(), f"Bearer {token.get_secret_value()}".encode()):
        raise NotSignedIn(f"The {name} token is missing or wrong.", "Send it as Authorization: Bearer ….")


class Tokens:
    """Verifies bearer tokens. Keys are fetched when they are first needed, and again when a token names a new one."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self._client = client
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._audience = settings.jwt_audience
        self._url = settings.keys_url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = float("-inf")
        self._failed = ""
        self._asking = asyncio.Lock()

    async def user(self, authorization: str | None) -> User:
        """The user of an ``Authorization: Bearer …`` header. Raises NotSignedIn; ProviderUnavailable without keys."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotSignedIn("This call needs a signed-in user.", "Send the user's access token as a bearer token.")
        try:
            claims = await self._claims(token.strip())
            if claims.get("role") != "authenticated":
                raise jwt.InvalidTokenError
            return User(UUID(claims["sub"]), claims.get("email") or None)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            why = "has expired" if isinstance(error, jwt.ExpiredSignatureError) else "is not valid"
            raise NotSignedIn(f"The access token {why}.", "Refresh the session and try again.") from None

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        # the algorithm decides which kind of key may be used: a public key is never an HMAC secret
        if algorithm == "HS256" and self._secret:
            key: Any = self._secret
        elif algorithm in _ASYMMETRIC and self._url:
            key = (await self._public_key(header.get("kid"), self._url)).key
        else:
            raise jwt.InvalidAlgorithmError
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            leeway=_CLOCKS_DIFFER_BY,
            options={"require": ["exp", "sub", "aud"]},
        )
        return claims

    async def _public_key(self, key_id: Any, url: str) -> jwt.PyJWK:
        known = self._keys.get(key_id)
        if known and time.monotonic() - self._asked_at < _KEYS_ARE_FRESH_FOR:
            return known  # and does not wait while somebody's unknown key is asked about
        async with self._asking:  # of many callers with a new key, one asks
            age = time.monotonic() - self._asked_at
            if age > _ASK_AGAIN_AFTER and (age > _KEYS_ARE_FRESH_FOR or key_id not in self._keys or self._failed):
                await self._ask(url)
        if not self._keys and self._failed:
            raise ProviderUnavailable(
                f"The project's signing keys cannot be fetched ({self._failed}).", "Try again later."
            )
        if key_id not in self._keys:
            raise jwt.InvalidKeyError
        return self._keys[key_id]

    async def _ask(self, url: str) -> None:
        """Fetch the keys; those known before are good enough while that fails."""
        try:
            answer = (await self._client.get(url)).raise_for_status().json()
            found = [key for member in answer["keys"] if (key := _usable(member))]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            self._failed = type(error).__name__
        else:
            self._keys = {str(key.key_id): key for key in found}
            self._failed = ""
        self._asked_at = time.monotonic()


def _usable(member: Any) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(member)
    except (jwt.PyJWTError, AttributeError):  # one key of a kind that we do not know must not hide the others
        return None
    return key if key.algorithm_name in _ASYMMETRIC else None
