"""Jobs by HTTP, for installations without a worker and without pg_cron."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

TOKEN = "the-admin-token-of-these-tests"


@pytest.fixture
def office(db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
    with running_bridge(db, stripe, admin_token=TOKEN) as bridge:
        yield bridge


def run(office: Bridge, name: str, token: str = TOKEN) -> httpx.Response:
    return office.http.post(f"/admin/jobs/{name}", headers={"Authorization": f"Bearer {token}"})


def test_each_job_says_how_much_it_has_done(office: Bridge, stripe: StripeSimulator) -> None:
    buyer = office.buyer()
    paid = buyer.checkout(key="k").json()["session_id"]
    stripe.pay(office.attempt(paid)["provider_session_id"])
    office.db.sql("update payments.attempts set reconcile_at = now()")
    lapsed = office.db.new_session()
    office.db.lapse(lapsed)
    office.db.sql("update payments.idempotency_keys set updated_at = now() - interval '2 days'")
    idle = dict.fromkeys(("remind", "notify", "number", "watch", "audit"), 0)
    for name, done in {"reconcile": 1, "expire": 1, "cleanup": 1, **idle}.items():
        answer = run(office, name)
        assert (answer.status_code, answer.json()) == (200, {"job": name, "done": done})
        assert run(office, name).json()["done"] == 0
    assert office.db.session(paid)["status"] == "completed"
    assert office.db.session(lapsed)["status"] == "expired"


def test_a_job_that_there_is_not_lists_those_that_there_are(office: Bridge) -> None:
    answer = run(office, "everything")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "not_supported")
    hint = answer.json()["error"]["hint"]
    assert hint == "There are: reconcile, notify, remind, expire, number, cleanup, watch, audit."


def test_it_takes_the_admin_token(office: Bridge) -> None:
    assert run(office, "expire", "wrong").status_code == 401
