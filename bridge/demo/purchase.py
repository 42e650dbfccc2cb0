"""One purchase without a browser: real HTTP, a signed webhook, the same webhook again, and a verify call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg

from bridge.demo.stack import Stack
from bridge.errors import SetupError

__all__ = ["buy_once"]

_PATIENCE_SECONDS = 15.0

_COUNTS = """
select
    (select count(*) from payments.captures where session_id = %(id)s) as captures,
    (select count(*) from public.payment_credit_entries where source = %(id)s::text) as credit_entries,
    (select count(*) from payments.session_events where session_id = %(id)s) as audit_rows,
    (select count(*) from payments.webhook_events where session_id = %(id)s and status = 'handled') as webhooks,
    (
        select b.balance
        from public.payment_credit_balances as b
        inner join public.payment_checkout_sessions as s on b.user_id = s.user_id
        where s.id = %(id)s
    ) as credits
"""


def buy_once(stack: Stack, say: Callable[[str], None]) -> bool:
    """Buy 100 credits and tell each step; True if exactly one fulfilment came of it."""
    with httpx.Client(base_url=stack.url, timeout=10.0) as http:
        user = _ok(http.post("/demo/sign-in"))
        http.headers["Authorization"] = f"Bearer {user['token']}"
        say(f"signed in        {user['email']}")
        order = {"plan": "credits_100", "currency": "USD"}
        opened = _ok(http.post("/checkout", json=order, headers={"Idempotency-Key": "demo-1"}))
        say(f"session          {opened['session_id']}  {opened['amount']} minor units of {opened['currency']}")
        again = _ok(http.post("/checkout", json=order, headers={"Idempotency-Key": "demo-1"}))
        say(f"same call again  {'the same session and page' if again == opened else 'ANOTHER ANSWER'}")
        paid = http.post(opened["checkout_url"], data={"action": "pay"})
        returned = http.get(paid.headers["location"])
        say(f"paid, returned   {returned.headers['location'].partition('?')[2]}")
        _wait_for_webhook(stack, opened["session_id"])
        say("webhook          signature valid, handled")
        repeated = _redeliver(http, stack, opened["checkout_url"])
        say(f"same webhook     answered {repeated['answered']}")
        verified = _ok(http.post("/verify", json={"session_id": opened["session_id"]}))
        say(f"verify           {verified['payment_status']}: {verified['message']}")
        account = _ok(http.get("/demo/account"))
    counts = _counts(stack, opened["session_id"])
    say("in the database  " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items()))
    expected = {"captures": 1, "credit_entries": 1, "audit_rows": 1, "webhooks": 1, "credits": 100}
    return bool(
        counts == expected
        and again == opened
        and account["credits"] == expected["credits"]
        and verified["success"]
        and repeated["answered"] == httpx.codes.OK
    )


def _ok(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise SetupError(
            f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text}"
        )
    answer: dict[str, Any] = response.json()
    return answer


def _redeliver(http: httpx.Client, stack: Stack, checkout_url: str) -> dict[str, Any]:
    page = checkout_url.rpartition("/")[2]
    key = {"Authorization": f"Bearer {stack.sandbox_secret}"}
    return _ok(http.post(f"/sandbox/v1/pages/{page}/redeliver", headers=key))


def _wait_for_webhook(stack: Stack, session_id: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _counts(stack, session_id)["webhooks"] == 0:
        if time.monotonic() > deadline:
            raise SetupError("The webhook did not arrive.")
        time.sleep(0.05)


def _counts(stack: Stack, session_id: str) -> dict[str, int]:
    with psycopg.connect(stack.database_url) as connection:
        cursor = connection.execute(_COUNTS, {"id": session_id})
        row = cursor.fetchone() or ()
        return {column.name: int(value or 0) for column, value in zip(cursor.description or (), row, strict=True)}
