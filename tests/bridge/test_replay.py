"""Webhooks that could not be applied are listed, and handled again on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, Buyer
from tests.support.command import run
from tests.support.database import Row


@pytest.fixture
def settings(bridge: Bridge, stripe: StripeSimulator) -> dict[str, Any]:
    return {"database_url": bridge.db.url(), **stripe.settings()}


@pytest.fixture
def unheard(bridge: Bridge, buyer: Buyer, stripe: StripeSimulator) -> Row:
    """The event of a payment that came while the database could not take it, and will not come again."""
    session_id = buyer.checkout().json()["session_id"]
    event = stripe.pay(bridge.attempt(session_id)["provider_session_id"])[-1]
    bridge.db.sql("alter function public.apply_payment_outcome rename to broken")
    assert bridge.deliver("stripe", stripe.sign(event)).status_code == 500
    bridge.db.sql("alter function public.broken rename to apply_payment_outcome")
    return event


def test_without_a_name_they_are_listed_and_left_alone(
    bridge: Bridge, unheard: Row, settings: dict[str, Any], tmp_path: Path
) -> None:
    before = bridge.db.everything()
    done = run(tmp_path, "replay", **settings)
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    assert line.startswith(f"stripe {unheard['id']} (checkout.session.completed, ")
    assert line.endswith("internal_error -> failed")
    assert bridge.db.everything() == before
    assert run(tmp_path, "replay", "paypal", **settings).out == ""


@pytest.mark.parametrize("words", [["stripe", "{id}"], ["--all"]])
def test_it_is_handled_again_and_fulfils_once(
    bridge: Bridge, unheard: Row, settings: dict[str, Any], tmp_path: Path, words: list[str]
) -> None:
    done = run(tmp_path, "replay", *[word.format(id=unheard["id"]) for word in words], **settings)
    assert done.code == 0, done.err
    assert done.out.rstrip().endswith("internal_error -> applied")
    (session,) = bridge.db.sql("select user_id, status from public.payment_checkout_sessions")
    assert (session["status"], bridge.db.balance(session["user_id"])) == ("completed", 100)
    assert [event["status"] for event in bridge.webhook_events()] == ["handled"]
    assert run(tmp_path, "replay", "--all", **settings).out == ""


def test_what_is_still_wrong_is_said_and_kept(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, settings: dict[str, Any], tmp_path: Path
) -> None:
    page = bridge.attempt(buyer.checkout().json()["session_id"])["provider_session_id"]
    event = stripe.pay(page)[-1] | {"livemode": True}
    assert bridge.deliver("stripe", stripe.sign(event)).json()["result"] == "refused"
    done = run(tmp_path, "replay", "--all", **settings)
    assert (done.code, done.out.rstrip()[-31:]) == (1, "wrong_mode -> refused wrong_mode"[-31:])
    (kept,) = bridge.webhook_events()
    assert (kept["status"], kept["error"], kept["deliveries"]) == ("dead", "wrong_mode", 2)
    assert bridge.db.balance(buyer.id) == 0
