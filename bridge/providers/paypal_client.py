"""PayPal's REST API over HTTP: access tokens, requests, and the errors that it answers.

Sources: developer.paypal.com/api/rest/authentication (OAuth 2.0), developer.paypal.com/api/rest/requests and
developer.paypal.com/api/rest/responses (headers, errors), developer.paypal.com/api/rest/reference/idempotency (keys).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

from bridge.errors import ProviderRefused, ProviderUnavailable
from bridge.providers.http import send
from bridge.providers.shapes import MALFORMED, shaped, text, whole
from bridge.settings import Settings

__all__ = ["PayPalClient", "Refusal", "code"]

LIVE, SANDBOX = "https://api-m.paypal.com", "https://api-m.sandbox.paypal.com"
TOKEN_MARGIN_SECONDS = 60

_CODE = re.compile("[A-Za-z0-9_.-]{1,64}")


class Refusal(ProviderRefused):
    """An error answer of PayPal's; ``issue`` is the first one of its details, or its name."""

    def __init__(self, response: httpx.Response) -> None:
        said: dict[str, Any] = {}
        try:
            answer = response.json()
            said = {"issue": answer.get("name") or answer.get("error"), "debug": answer.get("debug_id")}
            said["issue"] = answer["details"][0]["issue"]
        except MALFORMED:
            pass  # an answer without details; descriptions are never quoted: they can repeat what the buyer typed
        self.status_code = response.status_code
        self.issue = code(said.get("issue"))
        super().__init__(
            f"PayPal refused (HTTP {self.status_code}): {self.issue or 'no explanation'}.",
            f"PayPal debug id {code(said.get('debug')) or 'unknown'}.",
        )


class PayPalClient:
    """Requests to PayPal's API; ``login`` (the app's id and secret) is exchanged for access tokens."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient, login: httpx.BasicAuth) -> None:
        self._client = client
        self._login = login
        usual = LIVE if settings.environment == "production" else SANDBOX
        self.api = str(settings.paypal_api_url or usual).rstrip("/")
        self._token, self._token_ends = "", 0.0
        self._one_at_a_time = asyncio.Lock()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        key: str | None = None,
        whole_answer: bool = False,
    ) -> dict[str, Any]:
        """Each request here is safe to repeat: it only reads, or carries a key. Raises Refusal for 4xx."""
        headers = {"Content-Type": "application/json"}
        if key:
            headers["PayPal-Request-Id"] = key
        if whole_answer:
            headers["Prefer"] = "return=representation"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        token = await self._access()
        for token_is_new in (False, True):
            headers["Authorization"] = f"Bearer {token}"
            request = self._client.build_request(method, self.api + path, content=content, headers=headers)
            response = await send(self._client, request, provider="PayPal")
            if response.status_code != 401 or token_is_new:
                break
            token = await self._access(instead_of=token)
        if not response.is_success:
            raise Refusal(response)
        return _object(response)

    async def _access(self, instead_of: str = "") -> str:
        """An access token; it is shared until shortly before its end, and one caller at a time gets a new one."""
        async with self._one_at_a_time:
            if not self._token or self._token == instead_of or time.monotonic() >= self._token_ends:
                request = self._client.build_request(
                    "POST", f"{self.api}/v1/oauth2/token", data={"grant_type": "client_credentials"}
                )
                login = next(self._login.auth_flow(request))
                response = await send(self._client, login, provider="PayPal")
                if not response.is_success:
                    refusal = Refusal(response)
                    raise ProviderRefused(
                        refusal.message,
                        f"Check PGCHECKOUT_PAYPAL_CLIENT_ID and PGCHECKOUT_PAYPAL_CLIENT_SECRET. {refusal.hint}",
                    )
                answer = _object(response)
                with shaped(ProviderUnavailable, "PayPal's answer"):
                    token = text(answer["access_token"], 5_000)
                    self._token_ends = time.monotonic() + whole(answer["expires_in"]) - TOKEN_MARGIN_SECONDS
                    self._token = token
            return self._token


def _object(response: httpx.Response) -> dict[str, Any]:
    with shaped(ProviderUnavailable, "PayPal's answer"):
        answer = response.json()
        if not isinstance(answer, dict):
            raise TypeError(f"a {type(answer).__name__}")
        return answer


def code(value: Any) -> str | None:
    """A word of PayPal's that is safe to show and to store; None for anything else."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None
