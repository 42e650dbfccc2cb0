"""apply_payment_outcomes: several outcomes in one transaction, and none at the price of another."""

from __future__ import annotations

import random
import uuid
from typing import Any

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER
from tests.support.database import Database, Row, outcome
from tests.support.races import all_at_once, start_and_see_it_wait


def paid(attempt: Row, event: str | None = None, **changes: Any) -> Row:
    """What a caller says of one payment."""
    said = {"id": event, "type": "paid", "payload": {"about": attempt["reference"]}} if event else None
    return {"outcome": outcome(attempt, **changes), "event": said}


def apply(db: Database, *calls: Row) -> list[Row | None]:
    answers: list[Row | None] = db.as_service().rpc("apply_payment_outcomes", p_calls=list(calls))
    return answers


def buy(db: Database, count: int) -> tuple[list[uuid.UUID], list[Row]]:
    """So many buyers, each before a page of their own."""
    users = [db.new_user() for _ in range(count)]
    return users, [db.open_attempt(db.new_session(user)) for user in users]


def entries(db: Database, users: list[uuid.UUID]) -> list[list[int]]:
    return [db.entries(user) for user in users]


def test_each_is_answered_as_if_it_came_alone(db: Database) -> None:
    users, attempts = buy(db, 3)
    alone = db.apply(attempts[0])
    first, second, third = apply(
        db, paid(attempts[1], "evt_1"), paid(attempts[0]), paid(attempts[2], status="failed", error_code="declined")
    )
    assert first == alone | {"session_id": str(attempts[1]["session_id"])}
    assert second == alone | {"already_completed": True}
    assert third
    assert (third["session_id"], third["status"]) == (attempts[2]["session_id"], "failed")
    assert entries(db, users) == [[100], [100], []]
    (event,) = db.sql("select event_id, status, session_id, payload from payments.webhook_events")
    assert event["payload"] == {"about": attempts[1]["reference"]}


def test_as_many_as_may_come_at_once_fit(db: Database) -> None:
    users, attempts = buy(db, 32)
    answers = apply(db, *(paid(attempt, f"evt_{number}") for number, attempt in enumerate(attempts)))
    assert [answer["status"] for answer in answers if answer] == ["completed"] * 32
    assert entries(db, users) == [[100]] * 32
    numbers = [row["number"] for row in db.sql("select number from public.payment_invoices order by number")]
    assert numbers == list(range(1, 33))


def test_what_is_refused_leaves_nothing_and_its_neighbours_alone(db: Database) -> None:
    users, attempts = buy(db, 4)
    db.apply(attempts[0], provider_payment_id="pi_known")
    before = len(db.sql("select from payments.webhook_events"))
    answers = apply(
        db,
        paid(attempts[1], "evt_1"),
        paid(attempts[2], "evt_2", provider_payment_id="pi_known"),  # refused after its event was stored
        paid({**attempts[2], "reference": "pgc_unknown"}),
        {"outcome": {"status": "completed"}},
        {"outcome": outcome(attempts[2]), "event": {"id": ""}},
        {},
        paid(attempts[3], "evt_3"),
    )
    assert [answer and answer["status"] for answer in answers] == ["completed", *[None] * 5, "completed"]
    assert entries(db, users) == [[100], [100], [], [100]]
    assert db.state(attempts[2]["session_id"]) == ("pending", "none", None)
    events = db.sql("select event_id from payments.webhook_events order by event_id")
    assert [row["event_id"] for row in events[before:]] == ["evt_1", "evt_3"]
    # its caller makes it alone, and is told why
    assert db.apply(attempts[2], event="evt_2")["status"] == "completed"


def test_a_purchase_that_cannot_be_fulfilled_is_its_own_matter(db: Database) -> None:
    users, attempts = buy(db, 3)
    db.sql(f"alter table public.payment_credit_entries add constraint no check (user_id <> '{users[1]}')")
    answers = apply(db, *map(paid, attempts))
    assert [answer and answer["fulfilment_status"] for answer in answers] == ["fulfilled", "failed", "fulfilled"]
    assert entries(db, users) == [[100], [], [100]]


def test_a_handler_that_stands_behind_a_lock_has_not_failed(db: Database) -> None:
    (user,), (attempt,) = buy(db, 1)
    db.sql("insert into public.payment_credit_balances values (%s, 0, now())", user)
    with psycopg.connect(db.url(SUPERUSER)) as other:
        other.execute("select from public.payment_credit_balances where user_id = %s for update", [user])
        assert apply(db, paid(attempt, "evt_1")) == [None]
        assert db.state(attempt["session_id"]) == ("pending", "none", None)
    assert db.apply(attempt, event="evt_1")["fulfilment_status"] == "fulfilled"
    assert db.entries(user) == [100]


@pytest.mark.parametrize(
    "change",
    [
        "insert into payments.fulfilment_handlers values ('gift', 'payments.fulfil_gift', null, null)",
        "update payments.fulfilment_handlers set fulfil_function = 'shop.fulfil' where kind = 'none'",
        "update payments.fulfilment_handlers set reverse_function = 'shop.reverse' where kind = 'credits'",
    ],
)
def test_a_shop_with_handlers_of_its_own_has_a_transaction_for_each(db: Database, change: str) -> None:
    users, attempts = buy(db, 2)
    db.sql(change)
    assert db.as_service().rpc("apply_payment_outcomes", p_calls=[paid(attempt) for attempt in attempts]) is None
    assert entries(db, users) == [[], []]


def test_the_same_event_twice_is_applied_once(db: Database) -> None:
    users, (attempt,) = buy(db, 1)
    first, second = apply(db, paid(attempt, "evt_1"), paid(attempt, "evt_1"))
    assert first
    assert first["duplicate"] is False
    assert second == {"duplicate": True}
    assert entries(db, users) == [[100]]
    assert apply(db, paid(attempt, "evt_1")) == [{"duplicate": True}]


def test_who_stands_behind_a_lock_is_left_to_be_made_alone(db: Database) -> None:
    users, attempts = buy(db, 3)
    attempts.sort(key=lambda attempt: str(attempt["reference"]))  # as they are applied
    users = [db.session(attempt["session_id"])["user_id"] for attempt in attempts]
    with psycopg.connect(db.url(SUPERUSER)) as other:
        other.execute(
            "select from public.payment_checkout_sessions where id = %s for update", [attempts[1]["session_id"]]
        )
        # answered while the lock is still held
        answers = apply(db, *(paid(attempt, f"evt_{attempt['number']}") for attempt in attempts))
        assert [answer and answer["status"] for answer in answers] == ["completed", None, None]
        assert entries(db, users) == [[100], [], []]
        # all calls go through their sessions in the same order, whatever theirs is
        answers = apply(db, paid(attempts[2]), paid(attempts[0]), paid(attempts[1]))
        assert [answer and answer["already_completed"] for answer in answers] == [None, True, None]
        assert apply(db, paid(attempts[2]))[0]  # nobody holds what it needs
        alone = start_and_see_it_wait(db, lambda: db.apply(attempts[1], event=f"evt_{attempts[1]['number']}"))
    assert alone.result(30)["status"] == "completed"
    assert entries(db, users) == [[100], [100], [100]]


def test_those_that_meet_in_any_order_are_applied_once_and_nobody_is_a_deadlocks_victim(db: Database) -> None:
    users, attempts = buy(db, 10)
    calls = [paid(attempt, f"evt_{attempt['number']}") for attempt in attempts]

    def tell(seed: int) -> None:
        mine = random.Random(seed).sample(calls, len(calls))  # noqa: S311 - to be repeated
        while mine:
            answers = apply(db, *mine)
            mine = [call for call, answer in zip(mine, answers, strict=True) if answer is None]

    all_at_once([lambda seed=seed: tell(seed) for seed in range(6)])  # type: ignore[misc]
    assert entries(db, users) == [[100]] * 10
    assert db.value("select deadlocks from pg_stat_database where datname = current_database()") == 0
    assert db.sql("select * from public.check_payment_invariants()") == []
