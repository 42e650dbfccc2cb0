"""Secrets, tokens and personal data never reach the logs, whatever goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import KEYS, SANDBOX_SECRET, Bridge, running_bridge, wait_until
from tests.support.database import Database

EMAIL = "ada.lovelace@example.test"
PASSWORD = "the-password-of-the-database"


@pytest.fixture
def bridge(db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
    url = db.url().replace("postgres@", f"postgres:{PASSWORD}@")
    with running_bridge(db, stripe, database_url=url) as running:
        yield running


@pytest.mark.usefixtures("impatient")
def test_a_run_full_of_trouble_leaks_nothing(
    bridge: Bridge,
    stripe: StripeSimulator,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    buyer = bridge.buyer(email=EMAIL)

    session_id = buyer.checkout(metadata={"note": EMAIL}).json()["session_id"]
    page = bridge.attempt(session_id)["provider_session_id"]
    stripe.faults.extend([Fault(status=500), Fault(lost=True), Fault(status=401)])
    buyer.checkout("credits_500")
    stripe.faults.clear()
    told = stripe.pay(page)
    headers, body = stripe.sign(told[-1])
    bridge.deliver("stripe", (headers, body + b" "))
    bridge.deliver("stripe", stripe.sign(told[-1] | {"livemode": True, "id": "evt_live"}))
    for event in told:
        bridge.deliver("stripe", stripe.sign(event))
    bridge.http.get(f"/return/stripe?page={page}")
    buyer.verify(session_id=session_id)

    opened = buyer.checkout("pro_month", provider="sandbox").json()
    bridge.http.post(opened["checkout_url"], data={"action": "pay"})
    wait_until(lambda: bridge.db.session(opened["session_id"])["status"] == "completed")

    bridge.db.sql("drop function public.find_checkout_attempt")
    assert buyer.verify(session_id=session_id).status_code == 500
    bridge.http.post("/verify", headers={"Authorization": f"Bearer {buyer.token}x"}, json={"reference": "x"})

    with running_bridge(
        bridge.db, stripe, database_url=f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/postgres"
    ) as lost:
        assert lost.http.get("/readyz").status_code == 503

    captured = capfd.readouterr()
    logged = "\n".join([caplog.text, captured.out, captured.err])
    assert "error connecting" in logged
    assert "wrong_mode" in logged
    (intent,) = (event for event in told if event["type"] == "payment_intent.succeeded")
    for what, secret in {
        "the Stripe key": stripe.secret_key,
        "Stripe's signing secret": stripe.webhook_secret,
        "the sandbox key": SANDBOX_SECRET,
        "the token secret": KEYS.shared_secret,
        "the user's token": buyer.token,
        "the signature of the user's token": buyer.token.rpartition(".")[2],
        "the user's address": EMAIL,
        "the password of the database": PASSWORD,
        "a client secret": intent["data"]["object"]["client_secret"],
    }.items():
        assert secret not in logged, what
