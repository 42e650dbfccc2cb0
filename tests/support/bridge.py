"""The real bridge, served over HTTP on a test's database, and the buyers and providers that call it."""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from bridge.api import create_app
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.local.serving import listening, serving
from bridge.sandbox.signature import sign
from bridge.settings import Settings, load_settings
from bridge.simulators.base import Simulator
from bridge.simulators.stripe import StripeSimulator
from tests.support.database import Database, Row
from tests.support.postgrest import Keys

__all__ = [
    "KEYS",
    "Bridge",
    "Buyer",
    "Desk",
    "SandboxDesk",
    "StripeDesk",
    "logged_url",
    "query_of",
    "running_bridge",
    "statements_of",
    "wait_until",
]

KEYS = Keys()
SANDBOX_SECRET = "sandbox-secret-of-these-tests"

Delivery = tuple[dict[str, str], bytes]


@dataclass(frozen=True)
class Buyer:
    """A signed-in user with an app that calls the bridge."""

    id: uuid.UUID
    token: str
    http: httpx.Client

    def post(self, path: str, **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **request.pop("headers", {})}
        return self.http.post(path, headers=headers, **request)

    def checkout(self, plan: str = "credits_100", *, key: str | None = None, **fields: Any) -> httpx.Response:
        return self.post("/checkout", json={"plan": plan, **fields}, headers={"Idempotency-Key": key} if key else {})

    def pay(self, session_id: object, **fields: Any) -> httpx.Response:
        return self.post(f"/checkout/{session_id}/pay", json=fields)

    def verify(self, **names: object) -> httpx.Response:
        return self.post("/verify", json={name: str(value) for name, value in names.items()})


@dataclass(frozen=True)
class Bridge:
    """A running bridge."""

    url: str
    settings: Settings
    db: Database
    http: httpx.Client

    def buyer(self, user_id: uuid.UUID | None = None, **claims: Any) -> Buyer:
        """A buyer; a new user unless one is given."""
        user_id = user_id or self.db.new_user()
        return Buyer(user_id, KEYS.token("HS256", "authenticated", str(user_id), **claims), self.http)

    def deliver(self, provider: str, delivery: Delivery) -> httpx.Response:
        """A webhook arrives."""
        headers, body = delivery
        return self.http.post(f"/webhooks/{provider}", headers=headers, content=body)

    def counted(self, provider: str, result: str) -> float:
        """What /metrics says of the notifications of a provider that ended like this."""
        labels = f'pgcheckout_webhooks_total{{provider="{provider}",result="{result}"}} '
        found = re.search("^" + re.escape(labels) + r"(\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def attempt(self, session_id: object) -> Row:
        """The session's current attempt, with the session's amount and currency."""
        (row,) = self.db.sql(
            "select a.*, s.amount, s.currency from public.payment_checkout_sessions as s"
            " inner join payments.attempts as a on s.current_attempt = a.number where s.id = %s",
            session_id,
        )
        return row

    def webhook_events(self) -> list[Row]:
        return self.db.sql("select * from payments.webhook_events order by received_at, event_id")


@contextlib.contextmanager
def running_bridge(db: Database, *accounts: Simulator | None, port: int = 0, **settings: Any) -> Iterator[Bridge]:
    """Serve the bridge with the sandbox on, and the providers of the simulated accounts."""
    with listening(port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        fitting: dict[str, Any] = {
            "environment": "development",
            "public_url": url,
            "success_url": "https://app.test/thanks?from=shop",
            "cancel_url": "https://app.test/cart",
            "database_url": db.url(),
            "jwt_secret": KEYS.shared_secret,
            "sandbox_secret": SANDBOX_SECRET,
        }
        for account in accounts:
            fitting |= account.settings() if account else {}
        chosen = load_settings(_env_file=None, **(fitting | settings))
        with serving(create_app(chosen, watching=False), listener), httpx.Client(base_url=url, timeout=30.0) as http:
            yield Bridge(url, chosen, db, http)


class Desk(Protocol):
    """Where a provider makes and signs its notifications, one shape for all of them."""

    name: str

    def paid(self, attempt: Row) -> Row:
        """The event that a payment on the attempt's page causes."""

    def subject(self, event: Row) -> Row:
        """What the event is about; tests bend it."""

    def renamed(self, event: Row, reference: str) -> Row:
        """The same event about another reference."""

    def wrongly_priced(self, event: Row, *, amount: int | None = None, currency: str | None = None) -> Row:
        """The same event about another amount or currency."""

    def deliver(self, event: Row) -> Delivery:
        """Headers and body of a genuine delivery."""


@dataclass(frozen=True)
class StripeDesk:
    """Stripe's."""

    stripe: StripeSimulator
    name = "stripe"

    def paid(self, attempt: Row) -> Row:
        return self.stripe.pay(attempt["provider_session_id"])[-1]

    def subject(self, event: Row) -> Row:
        found: Row = event["data"]["object"]
        return found

    def renamed(self, event: Row, reference: str) -> Row:
        return _changed(event, ["data", "object"], metadata={"pgcheckout_reference": reference})

    def wrongly_priced(self, event: Row, *, amount: int | None = None, currency: str | None = None) -> Row:
        subject = self.subject(event)
        return _changed(
            event,
            ["data", "object"],
            amount_total=subject["amount_total"] if amount is None else amount,
            currency=(currency or subject["currency"]).lower(),
        )

    def deliver(self, event: Row) -> Delivery:
        return self.stripe.sign(event)


@dataclass(frozen=True)
class SandboxDesk:
    """The sandbox's; it reads a page as the API shows it."""

    bridge: Bridge
    name = "sandbox"

    def paid(self, attempt: Row) -> Row:
        return self.event(attempt, status="paid", payment_id=f"pay_{uuid.uuid4().hex}", paid_at=int(time.time()))

    def event(self, attempt: Row, **page: Any) -> Row:
        """An event about the page as it is now, but for these fields."""
        response = self.bridge.http.get(
            f"/sandbox/v1/pages/{attempt['provider_session_id']}",
            headers={"Authorization": f"Bearer {SANDBOX_SECRET}"},
        )
        return {"id": f"evt_{uuid.uuid4().hex}", "type": "page.changed", "data": response.json() | page}

    def subject(self, event: Row) -> Row:
        found: Row = event["data"]
        return found

    def renamed(self, event: Row, reference: str) -> Row:
        return _changed(event, ["data"], reference=reference)

    def wrongly_priced(self, event: Row, *, amount: int | None = None, currency: str | None = None) -> Row:
        subject = self.subject(event)
        return _changed(
            event,
            ["data"],
            amount=subject["amount"] if amount is None else amount,
            currency=currency or subject["currency"],
        )

    def deliver(self, event: Row) -> Delivery:
        body = json.dumps(event).encode()
        return sign(SANDBOX_SECRET, event["id"], body), body


def _changed(event: Row, path: list[str], **fields: Any) -> Row:
    changed: Row = json.loads(json.dumps(event))
    node: Any = changed
    for name in path:
        node = node[name]
    node.update(fields)
    return changed


def wait_until(true: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for something that happens in another thread or process."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def query_of(response: httpx.Response) -> Mapping[str, str]:
    """The query of the address that a response redirects to."""
    return dict(httpx.URL(response.headers["location"]).params)


@contextlib.contextmanager
def statements_of(bridge: Bridge, server: LocalPostgres) -> Iterator[list[str]]:
    """What a bridge on ``logged_url`` executes meanwhile, as the server logs it; complete at the end of the block."""
    log = server.data / "log"
    start = log.stat().st_size
    found: list[str] = []
    yield found
    rows = bridge.db.sql(
        "select pid from pg_stat_activity where application_name = 'pgcheckout' and datname = current_database()"
    )
    pids = "|".join(str(row["pid"]) for row in rows)
    written = log.read_bytes()[start:].decode()
    found += re.findall(rf"\[(?:{pids})\] LOG:  (?:execute \S+|statement): (.*)", written)


def logged_url(db: Database) -> str:
    """A way to the database on which the server logs every statement."""
    return db.url(SUPERUSER) + "?options=-c%20log_statement%3Dall"
