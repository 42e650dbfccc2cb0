"""The demo shop: a static page, and the two things that Supabase would do for it (sign-in, reading own rows).

Everything about money goes through the bridge's own routes, as in a real app.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from importlib.resources import files
from typing import Annotated, Any

import jwt
import psycopg
from fastapi import APIRouter, Header
from fastapi.responses import HTMLResponse
from psycopg.rows import dict_row

from bridge.errors import NotSignedIn

__all__ = ["shop_router"]

_DAY = 86_400
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def shop_router(database_url: str, jwt_secret: str) -> APIRouter:
    """Routes of the shop. ``database_url`` logs in as ``authenticator``, as PostgREST does."""
    router = APIRouter(include_in_schema=False)
    owner_url = database_url.replace("authenticator@", "postgres@")

    @router.get("/", response_class=HTMLResponse)
    def shop() -> HTMLResponse:
        page = files("bridge.demo").joinpath("static/shop.html").read_text("utf-8")
        # not "no-store": who presses Back finds the page as it was left
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})

    @router.post("/demo/sign-in")
    def sign_in() -> dict[str, str]:
        """A new demo user and an access token as Supabase Auth would issue it."""
        user_id = str(uuid.uuid4())
        email = f"demo-{user_id[:8]}@example.test"
        with psycopg.connect(owner_url) as connection:
            connection.execute("insert into auth.users (id, email) values (%s, %s)", (user_id, email))
        now = int(time.time())
        token = {"sub": user_id, "email": email, "role": "authenticated", "aud": "authenticated"}
        return {"email": email, "token": jwt.encode(token | {"iat": now, "exp": now + _DAY}, jwt_secret, "HS256")}

    @router.get("/demo/products")
    def products() -> list[dict[str, Any]]:
        """The catalogue, which anybody may read."""
        with _reading_as({"role": "anon"}, database_url) as connection:
            return connection.execute(_PRODUCTS).fetchall()

    @router.get("/demo/account")
    def account(authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        """The user's own rows, under row-level security."""
        claims = _claims(authorization.removeprefix("Bearer "), jwt_secret)
        with _reading_as(claims, database_url) as connection:
            return {
                "email": claims["email"],
                "credits": (connection.execute(_CREDITS).fetchone() or {"balance": 0})["balance"],
                "subscriptions": connection.execute(_SUBSCRIPTIONS).fetchall(),
                "sessions": connection.execute(_SESSIONS).fetchall(),
            }

    return router


@contextlib.contextmanager
def _reading_as(claims: dict[str, Any], database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """What PostgREST does for each request."""
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        connection.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
            (claims["role"], json.dumps(claims)),
        )
        yield connection


def _claims(token: str, jwt_secret: str) -> dict[str, Any]:
    try:
        return dict(jwt.decode(token, jwt_secret, algorithms=["HS256"], audience="authenticated"))
    except jwt.InvalidTokenError:
        raise NotSignedIn("This call needs a signed-in user.", "Sign in first.") from None


_PRODUCTS = """
select p.id, p.name, p.description, p.kind, p.terms, jsonb_object_agg(pr.currency, pr.amount) as prices
from public.payment_products as p
inner join public.payment_prices as pr on p.id = pr.product_id
group by p.id
order by p.id
"""
_CREDITS = "select balance from public.payment_credit_balances"
_SUBSCRIPTIONS = "select tier, ends_at from public.payment_subscriptions where ends_at > now()"
_SESSIONS = """
select id, product_id, status, fulfilment_status, fulfilment, amount, currency, provider, checkout_url, review_reason,
    error_code, created_at, completed_at
from public.payment_checkout_sessions
order by id desc
limit 20
"""
