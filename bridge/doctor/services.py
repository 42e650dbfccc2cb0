"""What others answer: the publisher of keys, the mail server, and the database's functions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx

from bridge.api.health import stale_workers
from bridge.doctor.finding import Finding
from bridge.errors import MailRefused, PgcheckoutError
from bridge.mail.post import Post
from bridge.rpc import connect_rpc
from bridge.settings import Settings

__all__ = ["look_at_functions", "look_at_mail", "look_at_tokens"]

_KEYS = "Check PGCHECKOUT_SUPABASE_URL, or PGCHECKOUT_JWKS_URL if you set it."


async def look_at_tokens(settings: Settings) -> Finding:
    """Whether the tokens of users can be checked."""
    url = settings.keys_url
    if url is not None:
        try:
            async with httpx.AsyncClient(timeout=10.0) as client:
                keys = (await client.get(url)).raise_for_status().json()["keys"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return Finding("error", "user tokens", f"No keys at {url} ({type(error).__name__}).", _KEYS)
        if keys or settings.jwt_secret:
            return Finding("ok", "user tokens", f"{len(keys)} public keys")
        return Finding(
            "error", "user tokens", f"{url} has no keys.", "Rotate to signing keys, or set PGCHECKOUT_JWT_SECRET."
        )
    if settings.jwt_secret:
        return Finding("ok", "user tokens", "legacy HS256 secret")
    return Finding(
        "error",
        "user tokens",
        "No way to check them.",
        "Set PGCHECKOUT_SUPABASE_URL, PGCHECKOUT_JWKS_URL or PGCHECKOUT_JWT_SECRET.",
    )


async def look_at_mail(settings: Settings) -> Finding:
    """Whether the mail server lets us in; no letter is sent."""
    try:
        await Post(settings).greet()
    except MailRefused as error:
        return Finding("error", "mail", error.message, "Check PGCHECKOUT_SMTP_URL: server, port, user and password.")
    return Finding("ok", "mail", "the mail server lets us in")


async def look_at_functions(settings: Settings) -> AsyncIterator[Finding]:
    """Whether the database's functions can be called, and what they know of workers."""
    try:
        rpc = await connect_rpc(settings)
        try:
            await rpc.check()
            heartbeats = (await rpc.payment_health())["heartbeats"]
        finally:
            await rpc.close()
    except PgcheckoutError as error:
        remedy = error.hint if "doctor" not in error.hint else "Run `pgcheckout migrate` and check the grants above."
        yield Finding("error", "functions", error.message, remedy)
        return
    path = "psycopg" if settings.database_url else "supabase-py"
    yield Finding("ok", "functions", f"can be called over {path}")
    yield _workers(heartbeats)


def _workers(heartbeats: Mapping[str, int]) -> Finding:
    silent = stale_workers(heartbeats)
    if len(silent) < len(heartbeats):
        return Finding("ok", "workers", f"{len(heartbeats) - len(silent)} at work")
    said = f"{', '.join(silent)} went silent." if silent else "None is at work."
    return Finding(
        "warning",
        "workers",
        f"{said} Providers are not asked again, and letters are not sent.",
        "Run `pgcheckout work` beside the bridge, under whatever starts it again.",
    )
