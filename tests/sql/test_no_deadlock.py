"""Everything at once: eight connections do to a few sessions, coupons, groups and accounts whatever they can.

The state machine of test_properties.py goes one step at a time; this is its other half. What it proves is the lock
order that `payments.lock_session` states: nobody is ever a deadlock's victim, nobody sees an error without a reason,
and afterwards every guarantee holds.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.database import Database, Row, call
from tests.support.races import all_at_once

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS, STEPS = 8, 150
COUPONS = [("A", 10, 5, None), ("B", 20, 7, 2), ("FREE", 100, 20, 3), ("C", 50, None, 1)]
PLANS = ("credits_100", "credits_500", "pro_month", "join", "contribution", "circle")


@dataclass
class World:
    """What the callers fight over."""

    users: list[uuid.UUID]
    groups: list[uuid.UUID]
    sessions: list[uuid.UUID] = field(default_factory=list)


def new_world(db: Database) -> World:
    db.sql(
        "update payments.settings set create_limit = null, verify_limit = null, coupon_returns_on_refund = true,"
        " reminder_after = '1 ms'"
    )
    for coupon in COUPONS:
        db.sql(
            "insert into payments.coupons (id, percent_off, max_redemptions, max_redemptions_per_user)"
            " values (%s, %s, %s, %s)",
            *coupon,
        )
    db.new_product("contribution", "contribution", USD=100)
    db.new_product("join", "group_join", USD=300)
    terms = {"capacity": 4, "contribution_product": "contribution", "cycle": "1 month", "join_product": "join"}
    db.new_product("circle", "group_create", terms, USD=200)
    users = [db.new_user() for _ in range(5)]
    groups = [db.new_session(user, "circle") for user in users[:2]]
    for group in groups:
        db.complete(group, p_provider_payment_id=f"pi_{group}")
    return World(users, groups)


class Caller:
    """One connection that does one thing after another, as a seed says."""

    def __init__(self, db: Database, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)  # noqa: S311 - a seed to replay
        self.connection = psycopg.connect(db.url(), autocommit=True, row_factory=dict_row)
        deeds: list[tuple[int, Callable[[], Any]]] = [
            (6, self.create), (6, self.pay), (2, self.pay_twice), (2, self.page), (1, self.cancel), (3, self.refund),
            (1, self.dispute), (2, self.lapse), (1, self.spend), (1, self.retry), (1, self.mail), (1, self.reconcile),
            (1, self.maintain),
        ]  # fmt: skip
        self.weights = [weight for weight, _ in deeds]
        self.deeds = [deed for _, deed in deeds]

    def __call__(self) -> Counter[str]:
        seen: Counter[str] = Counter()
        with self.connection:
            for _ in range(STEPS):
                (deed,) = self.random.choices(self.deeds, self.weights)
                try:
                    deed()
                except psycopg.Error as error:
                    # whatever is no refusal of ours (a deadlock is 40P01) is shown with what was done
                    ours = str(error.sqlstate).startswith("PT")
                    seen[str(error.diag.message_detail) if ours else f"{deed.__name__}: {error}"] += 1
                else:
                    seen[deed.__name__] += 1
        return seen

    def rpc(self, function: str, **arguments: Any) -> Any:
        return call(self.connection, function, **arguments)

    def session(self) -> uuid.UUID:
        known = self.world.sessions or self.world.groups
        return self.random.choice(known[-30:] if self.random.random() < 0.8 else known)

    def create(self) -> None:
        plan = self.random.choice(PLANS)
        group = self.random.choice(self.world.groups)
        subjects = {"join": str(group), "contribution": f"{group}:{self.random.randint(1, 5)}"}
        self.world.sessions.append(
            self.rpc(
                "get_or_create_checkout_session",
                p_plan=plan, p_user_id=self.random.choice(self.world.users), p_email="ada@example.test",
                p_coupon=self.random.choice([None, None, "a", "b", "free", "c"]), p_subject=subjects.get(plan),
                p_provider=self.random.choice(["stripe", "paystack"]),
                p_metadata={"reminders": True, "position": self.random.randint(1, 4)},
            )
        )  # fmt: skip

    def pay(self) -> None:
        session_id = self.session()
        self.rpc("complete_checkout_session", p_session_id=session_id, p_provider_payment_id=f"pi_{session_id}")

    def pay_twice(self) -> None:
        self.rpc("complete_checkout_session", p_session_id=self.session(), p_provider_payment_id=f"pi_{uuid.uuid4()}")

    def page(self) -> None:
        attempt: Row = self.rpc("open_checkout_attempt", p_session_id=self.session())
        self.rpc(
            "attach_checkout_attempt",
            p_attempt=attempt["number"], p_provider_session_id=f"cs_{attempt['number']}", p_checkout_url="https://pay.test",
        )  # fmt: skip
        said = {
            "provider": attempt["provider"], "reference": attempt["reference"], "amount": attempt["amount"],
            "currency": attempt["currency"], "provider_payment_id": f"pi_{attempt['session_id']}",
            "status": self.random.choice(["processing", "failed", "expired", "completed"]),
        }  # fmt: skip
        event = {"id": str(uuid.uuid4()), "type": "page", "payload": {}}
        self.rpc("apply_payment_outcome", p_outcome=said, p_event=event)

    def cancel(self) -> None:
        self.rpc("cancel_checkout_session", p_session_id=self.session())

    def refund(self) -> None:
        session_id = self.session()
        self.rpc(
            "refund_checkout_session",
            p_session_id=session_id, p_provider_refund_id=f"re_{session_id}_{self.random.randint(1, 3)}",
            p_amount=self.random.choice([50, 100, 200]),
            p_status=self.random.choice(["succeeded", "succeeded", "pending", "failed"]),
        )  # fmt: skip

    def dispute(self) -> None:
        session_id = self.session()
        status = self.random.choice(["pending", "succeeded", "failed"])
        said = {"provider_refund_id": f"dp_{session_id}", "amount": 100, "status": status, "kind": "dispute"}
        outcome = {"provider": "stripe", "session_id": str(session_id), "refunds": [said]}
        self.rpc("apply_payment_outcome", p_outcome=outcome)

    def lapse(self) -> None:
        self.connection.execute(
            "update public.payment_checkout_sessions set expires_at = now() where id = any(array("
            "select id from public.payment_checkout_sessions where status = 'pending' limit 2 for update skip locked))"
        )
        self.rpc("expire_old_checkout_sessions")

    def spend(self) -> None:
        self.rpc(
            "spend_credits",
            p_user_id=self.random.choice(self.world.users), p_amount=self.random.randint(1, 150), p_reason="work",
            p_idempotency_key=str(uuid.uuid4()),
        )  # fmt: skip

    def retry(self) -> None:
        failed = self.connection.execute(
            "select id from public.payment_checkout_sessions where fulfilment_status = 'failed' limit 1"
        ).fetchone()
        self.rpc("retry_fulfilment", p_session_id=failed["id"] if failed else self.session())

    def mail(self) -> None:
        self.rpc("enqueue_payment_reminders")
        for claimed in self.rpc("claim_notifications", p_limit=5):
            self.rpc("finish_notification", p_id=claimed["id"], p_error=self.random.choice([None, "no answer"]))

    def reconcile(self) -> None:
        self.connection.execute("update payments.attempts set reconcile_at = now() where reconcile_at > now()")
        for claimed in self.rpc("claim_sessions_to_reconcile", p_limit=5):
            result = self.random.choice(["asked", "failed"])
            self.rpc("finish_reconcile", p_session_id=claimed["session_id"], p_result=result)

    def maintain(self) -> None:
        self.rpc("number_payment_invoices")
        self.rpc("cleanup_completed_checkout_sessions")
        self.rpc("purge_old_payment_data")


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_at_once_nobody_deadlocks_and_every_guarantee_holds(db: Database, seed: int) -> None:
    world = new_world(db)
    callers = [Caller(db, world, seed * 100 + number) for number in range(CONNECTIONS)]
    seen = sum(all_at_once(callers), Counter[str]())
    reasons_and_deeds = {name for name in seen if " " not in name}
    assert set(seen) == reasons_and_deeds, [name for name in seen if name not in reasons_and_deeds]
    assert {"create", "pay", "refund", "lapse", "mail", "maintain"} <= reasons_and_deeds, "something never succeeded"
    assert db.as_service().rpc("check_payment_invariants") == []
    assert db.as_service().rpc("number_payment_invoices") >= 0
    assert db.value("select count(*) from payments.unnumbered_invoices") == 0
