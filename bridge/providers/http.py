"""Requests to providers: time-outs, bounded retries with jitter, and two kinds of failure."""

from __future__ import annotations

import httpx
import stamina

from bridge.errors import ProviderUnavailable
from bridge.logs import keep_addresses_private

__all__ = ["TIMEOUT", "is_temporary", "new_client", "send"]

TIMEOUT = httpx.Timeout(10.0, connect=5.0)


def new_client() -> httpx.AsyncClient:
    """The client that all adapters share."""
    keep_addresses_private()
    return httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)


async def send(client: httpx.AsyncClient, request: httpx.Request, *, provider: str) -> httpx.Response:
    """Send a request that is safe to repeat, up to three times within 20 s.

    Repeats on network errors, 409, 429 and 5xx, unless the answer shows that repeating at once is useless
    (``Stripe-Should-Retry: false``, ``Idempotent-Replayed: true``). Returns any other answer, errors of the request
    included; raises ProviderUnavailable when the last try failed too.
    """
    try:
        async for attempt in stamina.retry_context(
            on=(httpx.RequestError, ProviderUnavailable), attempts=3, timeout=20.0, wait_initial=0.25, wait_max=4.0
        ):
            with attempt:
                response = await client.send(request)
                if _worth_repeating(response):
                    raise ProviderUnavailable(f"{provider} answered HTTP {response.status_code}.", "Try again later.")
                return response
    except httpx.RequestError as error:
        # the type only: an address may carry credentials
        raise ProviderUnavailable(
            f"{provider} cannot be reached ({type(error).__name__}).", "Try again later."
        ) from None
    raise AssertionError("unreachable")


def is_temporary(response: httpx.Response) -> bool:
    """Whether the same request can be answered otherwise later."""
    return response.status_code in (409, 429) or response.is_server_error


def _worth_repeating(response: httpx.Response) -> bool:
    if response.is_success or response.headers.get("idempotent-replayed") == "true":
        return False
    told = response.headers.get("stripe-should-retry")
    return is_temporary(response) if told not in ("true", "false") else bool(told == "true")
