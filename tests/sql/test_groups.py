"""Rotating savings groups: slots are sold, given, taken back and given again, and never one too many."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Iterator

JOIN, CONTRIBUTION = "seat", "share"
DEPOSIT = 5000
NOBODY = uuid.UUID(int=0)
ROUNDS = 12
WAIT = 30  # seconds until a waiter is given up; nothing here takes long


def terms_of(capacity: Any = 3, **changes: Any) -> Row:
    """The terms of a product of kind group_create."""
    return {
        "capacity": capacity,
        "contribution_product": CONTRIBUTION,
        "cycle": "1 month",
        "join_product": JOIN,
    } | changes


def sell_groups(db: Database) -> None:
    """The products that members of a group buy."""
    db.new_product(JOIN, "group_join", USD=DEPOSIT)
    db.new_product(CONTRIBUTION, "contribution", USD=2000, NGN=3000000)


def ask(db: Database, user: uuid.UUID, plan: str = JOIN, subject: str | None = None, **metadata: Any) -> uuid.UUID:
    """The user asks for a session."""
    session_id = db.as_user(user).rpc(
        "get_or_create_checkout_session", p_plan=plan, p_subject=subject, p_metadata=metadata
    )
    assert isinstance(session_id, uuid.UUID)
    return session_id


def pay(db: Database, session_id: uuid.UUID) -> Row:
    return db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")


def new_group(db: Database, capacity: int = 3, creator: uuid.UUID | None = None, **metadata: Any) -> str:
    """A group with one member, its creator, unless they leave it; returns its id."""
    plan = f"circle_of_{capacity}"
    if not db.value("select count(*) from public.payment_products where id = %s", plan):
        db.new_product(plan, "group_create", terms_of(capacity), USD=10000)
    group = pay(db, ask(db, creator or db.new_user(), plan, **metadata))["fulfilment"]["group_id"]
    assert isinstance(group, str)
    return group


def join(db: Database, group: str, user: uuid.UUID | None = None, **metadata: Any) -> Row:
    """A user, a new one unless one is given, joins a group; what the completion answered."""
    return pay(db, ask(db, user or db.new_user(), JOIN, group, **metadata))


def refund(db: Database, session_id: Any, amount: int | None = None, status: str = "succeeded", name: str = "") -> Row:
    """A refund, in full unless an amount is given; again with another status for what became of it."""
    answer: Row = db.as_service().rpc(
        "refund_checkout_session",
        p_session_id=session_id,
        p_provider_refund_id=f"re_{session_id}{name}",
        p_amount=amount or db.session(session_id)["amount"],
        p_status=status,
    )
    return answer


def retry(db: Database, session_id: Any) -> Row:
    answer: Row = db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
    return answer


def group_row(db: Database, group: str) -> Row:
    (row,) = db.sql("select *, cycle::text from public.payment_groups where id = %s", group)
    return row


def member(db: Database, group: str, user: uuid.UUID) -> Row:
    (row,) = db.sql("select * from public.payment_group_members where group_id = %s and user_id = %s", group, user)
    return row


def seats(db: Database, group: str) -> dict[int, uuid.UUID]:
    """Who holds which slot."""
    rows = db.sql(
        "select position, user_id from public.payment_group_members where group_id = %s and status = 'active'", group
    )
    assert len({row["position"] for row in rows}) == len(rows)
    return {row["position"]: row["user_id"] for row in rows}


def slot_of(db: Database, group: str, user: uuid.UUID) -> int | None:
    return {holder: slot for slot, holder in seats(db, group).items()}.get(user)


def set_status(db: Database, group: str, status: str) -> None:
    db.sql("update public.payment_groups set status = %s where id = %s", status, group)


def two_for_one_place(db: Database) -> tuple[str, uuid.UUID, uuid.UUID]:
    """A group with one free place, and two sessions to buy it."""
    group = new_group(db, 2)
    first, second = (ask(db, db.new_user(), JOIN, group) for _ in range(2))
    return group, first, second


def assert_is_waiting(db: Database, session_id: uuid.UUID) -> None:
    """Paid, not given, and known to a person."""
    assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
    row = db.session(session_id)
    assert (row["error_code"], row["fulfilment"]) == ("group_full", None)
    assert "no free place" in row["error_message"]
    assert [capture["disposition"] for capture in db.captures(session_id)] == ["settled"]


def see_waiting(db: Database, callers: int) -> None:
    """Returns once so many callers wait for a lock."""
    for _ in range(1000):
        if callers == db.value(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"{callers} were never seen waiting")


@pytest.fixture(autouse=True)
def _catalogue_and_invariants(db: Database) -> Iterator[None]:
    """Every test has the products, and leaves no guarantee broken."""
    sell_groups(db)
    yield
    assert db.as_service().rpc("check_payment_invariants") == []


class TestProducts:
    @pytest.mark.parametrize(
        "changes",
        [*({"capacity": value} for value in (None, 0, -1, 1.5, 10000, "many", "", " 3", True, [3], {"of": 3},
                                            "3; drop")),
         *({"contribution_product": value} for value in (None, "")),
         *({"cycle": value} for value in (None, "", "month", "0 days", "-1 month", "1", 30, "1 fortnight", "1.5 months",
                                          "10000 days", "1 month 1 day", "1 month\n", {"months": 1}))],
        ids=str,
    )  # fmt: skip
    def test_terms_that_make_no_group_are_refused(self, db: Database, changes: Row) -> None:
        with refused("23514") as caught:
            db.new_product("circle", "group_create", terms_of() | changes)
        constraint = "payment_products_groups_have_capacity_contribution_and_cycle"
        assert caught.value.diag.constraint_name == constraint

    @pytest.mark.parametrize("missing", ["capacity", "contribution_product", "cycle"])
    def test_terms_that_lack_something_are_refused(self, db: Database, missing: str) -> None:
        with refused("23514"):
            db.new_product("circle", "group_create", {k: v for k, v in terms_of().items() if k != missing})

    @pytest.mark.parametrize(
        "changes",
        [{"capacity": 1}, {"capacity": 9999}, {"capacity": "12"}, {"cycle": "9999 days"}, {"cycle": "2 weeks"},
         {"cycle": "1 year"}, {"join_product": None}],
        ids=str,
    )  # fmt: skip
    def test_terms_that_make_a_group_are_accepted_and_make_one(self, db: Database, changes: Row) -> None:
        plan = db.new_product("circle", "group_create", terms_of() | changes, USD=100)
        assert pay(db, ask(db, db.new_user(), plan))["position"] == 1

    @pytest.mark.parametrize(
        "changes",
        [{"contribution_product": "nothing"}, {"contribution_product": JOIN}, {"contribution_product": {"id": "share"}},
         {"join_product": "nothing"}, {"join_product": CONTRIBUTION}, {"join_product": ""}],
        ids=str,
    )  # fmt: skip
    def test_a_group_whose_members_could_buy_nothing_is_not_sold(self, db: Database, changes: Row) -> None:
        plan = db.new_product("circle", "group_create", terms_of() | changes, USD=100)
        user = db.new_user()
        before = db.everything()
        with refused("PT422", "group_product_mismatch"):
            ask(db, user, plan)
        assert db.everything() == before


class TestCreation:
    @pytest.fixture
    def circle(self, db: Database) -> str:
        return db.new_product("circle", "group_create", terms_of(), USD=10000, NGN=999)

    def test_the_buyer_gets_a_group_with_the_id_of_the_session_and_the_chosen_slot(
        self, db: Database, user: uuid.UUID, circle: str
    ) -> None:
        session_id = ask(db, user, circle, position=2, name="Neighbours")
        answer = pay(db, session_id)
        group = str(session_id)
        assert answer == {
            "session_id": group, "status": "completed", "already_completed": False, "position": 2,
            "fulfilment_status": "fulfilled", "review_reason": None,
            "fulfilment": {"kind": "group_create", "group_id": group, "position": 2},
        }  # fmt: skip
        row, completed_at = group_row(db, group), db.session(session_id)["completed_at"]
        assert row == {
            "id": session_id, "name": "Neighbours", "created_by": user, "capacity": 3, "cycle": "1 mon",
            "contribution_product_id": CONTRIBUTION, "join_product_id": JOIN, "status": "open",
            "created_at": completed_at,
        }  # fmt: skip
        assert member(db, group, user) == {
            "group_id": session_id, "user_id": user, "position": 2, "status": "active", "session_id": session_id,
            "security_deposit": 10000, "currency": "USD", "joined_at": completed_at, "updated_at": completed_at,
        }  # fmt: skip

    @pytest.mark.parametrize("metadata", [{}, {"position": None, "name": None}, {"colour": "red"}], ids=str)
    def test_who_chooses_nothing_gets_the_first_slot_and_the_name_of_the_product(
        self, db: Database, user: uuid.UUID, circle: str, metadata: Row
    ) -> None:
        answer = pay(db, ask(db, user, circle, **metadata))
        assert answer["position"] == 1
        assert group_row(db, answer["session_id"])["name"] == "A test product"

    @pytest.mark.parametrize("name", ["x", "x" * 200, "🦊" * 200, "'; drop table payment_groups; --"], ids=len)
    def test_any_name_of_1_to_200_characters_will_do(
        self, db: Database, user: uuid.UUID, circle: str, name: str
    ) -> None:
        assert group_row(db, pay(db, ask(db, user, circle, name=name))["session_id"])["name"] == name

    def test_a_slot_may_be_written_as_text(self, db: Database, user: uuid.UUID, circle: str) -> None:
        assert pay(db, ask(db, user, circle, position="3"))["position"] == 3

    def test_a_replay_answers_the_same_slot_and_makes_nothing(self, db: Database, user: uuid.UUID, circle: str) -> None:
        session_id = ask(db, user, circle, position=2)
        first, before = pay(db, session_id), db.everything()
        assert pay(db, session_id) == first | {"already_completed": True}
        assert db.everything() == before

    def test_every_delivery_of_the_news_makes_the_same_group(self, db: Database, user: uuid.UUID, circle: str) -> None:
        attempt = db.open_attempt(ask(db, user, circle, position=3))
        answers = all_at_once([partial(db.apply, attempt, event=f"evt_{number}") for number in range(8)])
        assert {(answer["position"], answer["fulfilment"]["position"]) for answer in answers} == {(3, 3)}
        assert db.value("select count(*) from public.payment_groups") == 1
        assert seats(db, str(attempt["session_id"])) == {3: user}

    def test_the_group_is_made_as_it_was_sold(self, db: Database, user: uuid.UUID, circle: str) -> None:
        session_id = ask(db, user, circle)
        db.sql(
            "update public.payment_products set terms = %s where id = %s", Jsonb(terms_of(1, cycle="2 years")), circle
        )
        group = pay(db, session_id)["session_id"]
        assert (group_row(db, group)["capacity"], group_row(db, group)["cycle"]) == (3, "1 mon")

    def test_a_user_creates_as_many_groups_as_they_pay_for(self, db: Database, user: uuid.UUID, circle: str) -> None:
        groups = {pay(db, ask(db, user, circle, str(number)))["fulfilment"]["group_id"] for number in range(3)}
        assert [slot_of(db, group, user) for group in groups] == [1, 1, 1]

    def test_a_second_payment_makes_no_second_group(self, db: Database, user: uuid.UUID, circle: str) -> None:
        session_id = ask(db, user, circle)
        pay(db, session_id)
        db.complete(session_id, p_provider_payment_id="pi_another")
        assert db.state(session_id) == ("completed", "fulfilled", "duplicate_payment")
        assert db.value("select count(*) from public.payment_groups") == 1


class TestWhoSeesAGroup:
    TABLES = ("payment_groups", "payment_group_members")

    def test_members_read_their_groups_and_their_own_slot(self, db: Database, user: uuid.UUID) -> None:
        group, other_group, friend = new_group(db, creator=user), new_group(db), db.new_user()
        join(db, group, friend)
        join(db, other_group)
        for reader, slot in ((user, 1), (friend, 2)):
            rows = db.as_user(reader).sql("select * from public.payment_groups")
            assert [str(row["id"]) for row in rows] == [group]
            rows = db.as_user(reader).sql("select * from public.payment_group_members")
            assert [(row["user_id"], row["position"]) for row in rows] == [(reader, slot)]

    def test_strangers_see_nothing(self, db: Database, user: uuid.UUID) -> None:
        new_group(db)
        for table in self.TABLES:
            assert db.as_user(user).sql(f"select * from public.{table}") == []

    def test_who_has_asked_but_not_paid_sees_nothing(self, db: Database, user: uuid.UUID) -> None:
        ask(db, user, JOIN, new_group(db))
        for table in self.TABLES:
            assert db.as_user(user).sql(f"select * from public.{table}") == []

    @pytest.mark.parametrize("table", TABLES)
    def test_anon_may_not_even_ask(self, db: Database, table: str) -> None:
        with refused("42501"):
            db.as_anon().sql(f"select * from public.{table}")

    def test_the_service_reads_everything(self, db: Database) -> None:
        new_group(db)
        for table in self.TABLES:
            assert len(db.as_service().sql(f"select * from public.{table}")) == 1

    @pytest.mark.parametrize(
        "statement",
        ["insert into public.payment_groups select * from public.payment_groups",
         "update public.payment_groups set capacity = 9999",
         "delete from public.payment_groups",
         "truncate public.payment_groups cascade",
         "insert into public.payment_group_members select * from public.payment_group_members",
         "update public.payment_group_members set position = 1",
         "delete from public.payment_group_members",
         "truncate public.payment_group_members"],
    )  # fmt: skip
    def test_nobody_writes_them(self, db: Database, user: uuid.UUID, statement: str) -> None:
        new_group(db, creator=user)
        for caller in (db.as_user(user), db.as_anon(), db.as_service()):
            with refused("42501"):
                caller.sql(statement)


class TestSlots:
    @pytest.mark.parametrize(
        ("taken", "preferred", "given"),
        [([1], None, 2), ([2], None, 1), ([1, 2], None, 3), ([4], None, 1),
         ([1], 3, 3), ([1], 4, 4), ([2], 1, 1),
         ([2], 2, 3), ([2, 3], 2, 4), ([1, 3], 3, 4), ([1], 1, 2), ([2, 4], 2, 3),
         ([4], 4, 1), ([3, 4], 3, 1), ([1, 3, 4], 3, 2), ([2, 3, 4], 2, 1), ([1, 4], 4, 2)],
        ids=str,
    )  # fmt: skip
    def test_the_preferred_slot_or_the_next_behind_it_or_the_first(
        self, db: Database, user: uuid.UUID, taken: list[int], preferred: int | None, given: int
    ) -> None:
        first, *others = taken
        group = new_group(db, 4, position=first)
        for position in others:
            assert join(db, group, position=position)["position"] == position
        answer = join(db, group, user, position=preferred)
        assert answer["position"] == given
        assert answer["fulfilment"] == {"kind": "group_join", "group_id": group, "position": given}
        assert (answer["status"], answer["fulfilment_status"], answer["review_reason"]) == (
            "completed",
            "fulfilled",
            None,
        )
        row = member(db, group, user)
        assert (row["position"], row["security_deposit"], row["currency"]) == (given, DEPOSIT, "USD")

    def test_the_slot_is_chosen_when_the_money_comes(self, db: Database) -> None:
        group = new_group(db, 4)
        slow, quick = db.new_user(), db.new_user()
        session_id = ask(db, slow, JOIN, group, position=3)
        assert join(db, group, quick, position=3)["position"] == 3
        assert pay(db, session_id)["position"] == 4

    def test_every_place_is_sold_and_no_more(self, db: Database) -> None:
        group = new_group(db, 5, position=4)
        assert [join(db, group)["position"] for _ in range(4)] == [1, 2, 3, 5]
        with refused("PT409", "group_full"):
            ask(db, db.new_user(), JOIN, group)

    def test_a_user_may_be_in_several_groups(self, db: Database, user: uuid.UUID) -> None:
        groups = [new_group(db) for _ in range(3)]
        assert [join(db, group, user)["position"] for group in groups] == [2, 2, 2]

    def test_late_money_for_a_cancelled_session_gets_a_slot(self, db: Database, user: uuid.UUID) -> None:
        group = new_group(db)
        session_id = ask(db, user, JOIN, group)
        db.close(session_id)
        assert (pay(db, session_id)["position"], db.state(session_id)[2]) == (2, None)

    def test_no_slot_has_two_holders_whoever_writes(self, db: Database) -> None:
        new_group(db)
        with pytest.raises(psycopg.errors.UniqueViolation, match="one_per_position"):
            db.sql(
                "insert into public.payment_group_members select group_id, %s, position, status, session_id,"
                " security_deposit, currency, joined_at, updated_at from public.payment_group_members",
                db.new_user(),
            )


class TestWhatIsNotSold:
    """Refused before the buyer pays, and without a trace."""

    @staticmethod
    def assert_refused(db: Database, sqlstate: str, reason: str, *arguments: Any, **metadata: Any) -> None:
        before = db.everything()
        with refused(sqlstate, reason):
            ask(db, *arguments, **metadata)
        assert db.everything() == before

    @pytest.mark.parametrize("capacity", [1, 2])
    def test_a_place_in_a_full_group(self, db: Database, user: uuid.UUID, capacity: int) -> None:
        group = new_group(db, capacity)
        for _ in range(capacity - 1):
            join(db, group)
        self.assert_refused(db, "PT409", "group_full", user, JOIN, group)

    def test_a_place_in_a_closed_group(self, db: Database, user: uuid.UUID) -> None:
        group = new_group(db)
        set_status(db, group, "closed")
        self.assert_refused(db, "PT409", "group_full", user, JOIN, group)
        set_status(db, group, "open")
        assert join(db, group, user)["position"] == 2

    @pytest.mark.parametrize("position", [None, 1, 3])
    def test_a_second_place_for_a_member(self, db: Database, user: uuid.UUID, position: int | None) -> None:
        group = new_group(db, 4, creator=user)
        friend = db.new_user()
        join(db, group, friend)
        for who in (user, friend):
            self.assert_refused(db, "PT409", "already_member", who, JOIN, group, position=position)

    @pytest.mark.parametrize(
        "subject", [None, str(NOBODY), "1", "null", "{group} ", " {group}", "{GROUP}", "{{{group}}}", "{group}:", ":",
                    "{group}:1", "{group}:{group}", "'{group}'", "' or true; --"]
    )  # fmt: skip
    def test_a_place_in_a_group_that_is_not_named_properly(
        self, db: Database, user: uuid.UUID, subject: str | None
    ) -> None:
        group = new_group(db)
        subject = subject and subject.format(group=group, GROUP=group.upper())
        self.assert_refused(db, "PT404", "group_unknown", user, JOIN, subject)

    def test_a_place_with_the_product_of_another_group(self, db: Database, user: uuid.UUID) -> None:
        other = db.new_product("other_seat", "group_join", USD=1)
        self.assert_refused(db, "PT422", "group_product_mismatch", user, other, new_group(db))

    def test_nothing_but_the_groups_own_product_when_it_names_one_and_any_when_it_names_none(
        self, db: Database, user: uuid.UUID
    ) -> None:
        other = db.new_product("other_seat", "group_join", USD=1)
        plan = db.new_product("circle", "group_create", terms_of(join_product=None), USD=100)
        group = pay(db, ask(db, db.new_user(), plan))["fulfilment"]["group_id"]
        assert pay(db, ask(db, user, other, group))["position"] == 2
        assert join(db, group)["position"] == 3

    METADATA = (
        *({"position": value} for value in (
            {"slot": 1}, [1], True, "1e3", 1e3, "1; drop", "", " 1", "1\n", 0, -1, "-1", 1.5, "01", "١", "４", 4, "4",  # noqa: RUF001
            99999, 10**30, "null", "first")),
        *({"name": value} for value in ("", "x" * 201, "🦊" * 201)),
    )  # fmt: skip

    @pytest.mark.parametrize("metadata", METADATA, ids=lambda metadata: str(metadata)[:40])
    def test_a_slot_that_is_none_and_a_name_that_is_none(self, db: Database, user: uuid.UUID, metadata: Row) -> None:
        group = new_group(db, 3)
        for plan, subject in (("circle_of_3", None), (JOIN, group)):
            self.assert_refused(db, "PT422", "invalid_input", user, plan, subject, **metadata)

    @pytest.mark.parametrize("metadata", [None, [], [{"position": 1}], "position", 1], ids=str)
    def test_metadata_that_are_no_object(self, db: Database, user: uuid.UUID, metadata: Any) -> None:
        group = new_group(db)
        before = db.everything()
        with refused("PT422", "invalid_input"):
            db.as_user(user).rpc(
                "get_or_create_checkout_session", p_plan=JOIN, p_subject=group, p_metadata=Jsonb(metadata)
            )
        assert db.everything() == before


class TestPaidButFull:
    def test_who_pays_too_late_waits_for_a_place_and_gets_it_when_a_member_is_refunded(self, db: Database) -> None:
        group, first, second = two_for_one_place(db)
        pay(db, first)
        answer = pay(db, second)
        assert (answer["fulfilment_status"], answer["review_reason"]) == ("failed", "fulfilment_failed")
        assert "position" not in answer
        assert_is_waiting(db, second)

        for _ in range(2):
            answer = retry(db, second)
            assert (answer["fulfilment_status"], answer["review_reason"]) == ("failed", "fulfilment_failed")
            assert_is_waiting(db, second)

        refund(db, first, DEPOSIT - 1, name="a")
        assert retry(db, second)["fulfilment_status"] == "failed"
        refund(db, first, 1, name="b")
        answer = retry(db, second)
        assert (answer["position"], answer["fulfilment"]["position"], answer["review_reason"]) == (2, 2, None)
        assert db.state(second) == ("completed", "fulfilled", None)
        assert (db.session(second)["error_code"], db.session(second)["error_message"]) == (None, None)
        assert seats(db, group)[2] == db.session(second)["user_id"]
        with refused("PT409", "nothing_to_retry"):
            retry(db, second)

    def test_a_group_that_was_closed_meanwhile_seats_nobody_until_it_is_opened(
        self, db: Database, user: uuid.UUID
    ) -> None:
        group = new_group(db)
        session_id = ask(db, user, JOIN, group)
        set_status(db, group, "closed")
        pay(db, session_id)
        assert_is_waiting(db, session_id)
        set_status(db, group, "open")
        assert retry(db, session_id)["position"] == 2

    def test_the_preferred_slot_still_counts_when_it_is_retried(self, db: Database) -> None:
        group = new_group(db, 3)
        sessions = [ask(db, db.new_user(), JOIN, group, position=position) for position in (2, 3)]
        waiting = ask(db, db.new_user(), JOIN, group, position=3)
        for session_id in (*sessions, waiting):
            pay(db, session_id)
        assert_is_waiting(db, waiting)
        for session_id in sessions:
            refund(db, session_id)
        assert retry(db, waiting)["position"] == 3

    def test_who_paid_with_two_products_gets_one_slot(self, db: Database, user: uuid.UUID) -> None:
        plan = db.new_product("circle", "group_create", terms_of(5, join_product=None), USD=100)
        group = pay(db, ask(db, db.new_user(), plan))["fulfilment"]["group_id"]
        other = db.new_product("other_seat", "group_join", USD=DEPOSIT)
        first, second = ask(db, user, JOIN, group), ask(db, user, other, group)
        answers = all_at_once([partial(pay, db, first), partial(pay, db, second)])
        assert Counter(answer["fulfilment_status"] for answer in answers) == {"fulfilled": 1, "failed": 1}
        (failed,) = (a["session_id"] for a in answers if a["fulfilment_status"] == "failed")
        assert db.session(failed)["error_code"] == "already_member"
        assert retry(db, failed)["review_reason"] == "fulfilment_failed"
        assert slot_of(db, group, user) == 2

    def test_who_is_refunded_instead_of_waiting_is_done_with(self, db: Database) -> None:
        group, first, second = two_for_one_place(db)
        pay(db, first)
        pay(db, second)
        answer = refund(db, second)
        assert db.state(second) == ("refunded", "reversed", None)
        assert "position" not in answer
        with refused("PT409", "nothing_to_retry"):
            retry(db, second)
        assert slot_of(db, group, db.session(first)["user_id"]) == 2

    def test_who_is_refunded_in_part_while_waiting_still_gets_the_place(self, db: Database) -> None:
        group, first, second = two_for_one_place(db)
        pay(db, first)
        pay(db, second)
        refund(db, second, 100)
        assert db.state(second) == ("partially_refunded", "failed", "fulfilment_failed")
        refund(db, first)
        assert retry(db, second)["position"] == 2
        assert db.state(second) == ("partially_refunded", "fulfilled", None)
        assert slot_of(db, group, db.session(second)["user_id"]) == 2

    def test_a_refund_of_who_never_got_the_place_waits_again_when_it_fails(self, db: Database) -> None:
        group, first, second = two_for_one_place(db)
        pay(db, first)
        pay(db, second)
        refund(db, second)
        refund(db, second, status="failed")
        assert db.state(second) == ("completed", "failed", "fulfilment_failed")
        refund(db, first)
        assert retry(db, second)["position"] == 2
        assert slot_of(db, group, db.session(second)["user_id"]) == 2


class TestManyAtOnce:
    def test_two_buyers_of_the_last_place_at_the_same_moment(self, db: Database) -> None:
        for _ in range(ROUNDS):
            group, *sessions = two_for_one_place(db)
            pages = [db.open_attempt(session_id) for session_id in sessions]
            answers = all_at_once([partial(db.apply, page) for page in pages])
            assert Counter(answer.get("position") for answer in answers) == {2: 1, None: 1}
            winner, loser = sorted(answers, key=lambda answer: str(answer["fulfilment_status"]), reverse=True)
            assert_is_waiting(db, loser["session_id"])
            assert retry(db, loser["session_id"])["fulfilment_status"] == "failed"
            refund(db, winner["session_id"])
            assert retry(db, loser["session_id"])["position"] == 2
            assert seats(db, group)[2] == db.session(loser["session_id"])["user_id"]

    @pytest.mark.parametrize("committed", [True, False])
    def test_the_second_buyer_of_the_last_place_waits_and_knows_what_became_of_the_first(
        self, db: Database, committed: bool
    ) -> None:
        group, first, second = two_for_one_place(db)
        page, other_page = db.open_attempt(first), db.open_attempt(second)
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(page))
            waiting = start_and_see_it_wait(db, partial(db.apply, other_page))
            if not committed:
                request.rollback()
        assert waiting.result(WAIT)["fulfilment_status"] == ("failed" if committed else "fulfilled")
        assert db.session(second)["error_code"] == ("group_full" if committed else None)
        assert seats(db, group)[2] == db.session(first if committed else second)["user_id"]

    OWN = (1, 2, 3, 4, 6, 7, 8, 9)

    @pytest.mark.parametrize("wishes", [(None,) * 8, (5,) * 8, OWN], ids=["none", "the same", "each their own"])
    def test_8_people_who_pay_at_once_fill_a_group_of_9(self, db: Database, wishes: tuple[int | None, ...]) -> None:
        group = new_group(db, 9, position=5)
        pages = [db.open_attempt(ask(db, db.new_user(), JOIN, group, position=wish)) for wish in wishes]
        given = [answer["position"] for answer in all_at_once([partial(db.apply, page) for page in pages])]
        assert sorted([5, *given]) == sorted(seats(db, group)) == list(range(1, 10))
        assert wishes != self.OWN or tuple(given) == wishes

    def test_16_people_who_pay_at_once_for_8_places_get_8(self, db: Database) -> None:
        group = new_group(db, 9)
        pages = [db.open_attempt(ask(db, db.new_user(), JOIN, group)) for _ in range(16)]
        answers = all_at_once([partial(db.apply, page) for page in pages])
        assert sorted(answer["position"] for answer in answers if "position" in answer) == list(range(2, 10))
        waiting = [page["session_id"] for page, answer in zip(pages, answers, strict=True) if "position" not in answer]
        assert len(waiting) == 8
        for session_id in waiting:
            assert_is_waiting(db, session_id)

    def test_two_who_wait_for_a_place_and_are_retried_at_once_get_one(self, db: Database) -> None:
        group, first, second = two_for_one_place(db)
        third = ask(db, db.new_user(), JOIN, group)
        for session_id in (first, second, third):
            pay(db, session_id)
        refund(db, first)
        answers = all_at_once([partial(retry, db, session_id) for session_id in (second, third)])
        assert Counter(answer["fulfilment_status"] for answer in answers) == {"fulfilled": 1, "failed": 1}
        assert sorted(seats(db, group)) == [1, 2]

    def test_8_retries_of_one_session_seat_once(self, db: Database) -> None:
        group, first, second = two_for_one_place(db)
        pay(db, first)
        pay(db, second)
        refund(db, first)
        answers = all_at_once([partial(answer_or_reason, retry, db, second)] * 8)
        results = Counter(answer if isinstance(answer, str) else answer["position"] for answer in answers)
        assert results == {2: 1, "nothing_to_retry": 7}
        assert sorted(seats(db, group)) == [1, 2]

    @pytest.mark.parametrize("committed", [True, False])
    def test_who_pays_while_a_member_is_being_refunded_waits_for_the_place(self, db: Database, committed: bool) -> None:
        group, first, second = two_for_one_place(db)
        page = db.open_attempt(second)
        pay(db, first)
        with db.as_service().request() as request:
            call(
                request, "refund_checkout_session",
                p_session_id=first, p_provider_refund_id="re_1", p_amount=DEPOSIT,
            )  # fmt: skip
            waiting = start_and_see_it_wait(db, partial(db.apply, page))
            if not committed:
                request.rollback()
        assert waiting.result(WAIT)["fulfilment_status"] == ("fulfilled" if committed else "failed")
        assert seats(db, group)[2] == db.session(second if committed else first)["user_id"]

    def test_members_who_are_refunded_while_others_pay_leave_no_slot_with_two_holders(self, db: Database) -> None:
        group = new_group(db, 6)
        members = [join(db, group)["session_id"] for _ in range(4)]
        pages = [db.open_attempt(ask(db, db.new_user(), JOIN, group)) for _ in range(8)]
        all_at_once([*(partial(refund, db, one) for one in members), *(partial(db.apply, page) for page in pages)])
        for page in pages:
            if db.session(page["session_id"])["fulfilment_status"] == "failed":
                retry(db, page["session_id"])
        assert sorted(seats(db, group)) == list(range(1, 7))
        states = Counter(db.state(page["session_id"])[1] for page in pages)
        assert states == {"fulfilled": 5, "failed": 3}

    def test_late_money_and_a_refund_that_fails_take_coupon_and_group_in_one_order(self, db: Database) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('HALF', 50)")
        db.sql("update payments.settings set coupon_returns_on_refund = true")
        group = new_group(db)
        refunded, late = (db.new_session(plan=JOIN, p_subject=group, p_coupon="half") for _ in range(2))
        pay(db, refunded)
        refund(db, refunded)
        db.close(late)
        with db.as_owner().request() as request:
            request.execute("select from public.payment_groups for no key update")
            waiting = [start_and_see_it_wait(db, partial(refund, db, refunded, status="failed"))]
            waiting.append(start_and_see_it_wait(db, partial(pay, db, late)))
            see_waiting(db, 2)
        assert [one.result(WAIT)["fulfilment_status"] for one in waiting] == ["fulfilled"] * 2


class TestRefundOfAJoin:
    @pytest.fixture
    def group(self, db: Database) -> str:
        return new_group(db, 4)

    @pytest.fixture
    def seat(self, db: Database, user: uuid.UUID, group: str) -> uuid.UUID:
        """The session by which the user bought slot 3."""
        return uuid.UUID(join(db, group, user, position=3)["session_id"])

    def test_in_full_it_ends_the_membership_and_frees_the_slot(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        answer = refund(db, seat)
        assert (answer["status"], answer["fulfilment_status"], answer["review_reason"]) == (
            "refunded",
            "reversed",
            None,
        )
        assert (member(db, group, user)["status"], member(db, group, user)["position"]) == ("ended", 3)
        assert join(db, group, position=3)["position"] == 3

    def test_in_part_it_changes_nothing_until_the_parts_are_the_whole(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        before = member(db, group, user)
        refund(db, seat, DEPOSIT - 1, name="a")
        assert db.state(seat) == ("partially_refunded", "fulfilled", None)
        assert member(db, group, user) == before
        refund(db, seat, 1, name="b")
        assert db.state(seat) == ("refunded", "reversed", None)
        assert slot_of(db, group, user) is None

    @pytest.mark.parametrize("status", ["pending", "failed"])
    def test_it_takes_nothing_unless_it_succeeds(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID, status: str
    ) -> None:
        refund(db, seat, status=status)
        assert (db.state(seat), slot_of(db, group, user)) == (("completed", "fulfilled", None), 3)

    def test_a_replay_changes_nothing(self, db: Database, seat: uuid.UUID) -> None:
        refund(db, seat)
        before = db.everything()
        refund(db, seat)
        assert db.everything() == before

    def test_a_replay_does_not_take_the_slot_from_its_next_holder(
        self, db: Database, group: str, seat: uuid.UUID
    ) -> None:
        refund(db, seat)
        heir = db.new_user()
        join(db, group, heir, position=3)
        refund(db, seat)
        assert slot_of(db, group, heir) == 3

    def test_news_of_the_provider_do_the_same_in_any_order(self, db: Database, user: uuid.UUID, group: str) -> None:
        page = db.open_attempt(ask(db, user, JOIN, group, position=3))
        news: Row = {
            "provider_payment_id": "pi_1",
            "refunds": [{"provider_refund_id": "re_1", "amount": DEPOSIT, "status": "succeeded"}],
        }
        db.apply(page, "pending", event="evt_refund", **news)
        assert db.apply(page, event="evt_paid", provider_payment_id="pi_1")["status"] == "refunded"
        assert (db.state(page["session_id"]), seats(db, group).get(3)) == (("refunded", "reversed", None), None)
        news["refunds"][0]["status"] = "failed"
        db.apply(page, "pending", event="evt_failed", **news)
        assert (db.state(page["session_id"]), slot_of(db, group, user)) == (("completed", "fulfilled", None), 3)

    def test_when_it_fails_later_the_old_slot_is_given_back(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        before = member(db, group, user)
        refund(db, seat)
        join(db, group)  # somebody in slot 2
        answer = refund(db, seat, status="failed")
        assert (answer["status"], answer["fulfilment_status"], answer["position"]) == ("completed", "fulfilled", 3)
        assert (db.state(seat), slot_of(db, group, user)) == (("completed", "fulfilled", None), 3)
        times = {"joined_at", "updated_at"}
        assert {k: v for k, v in member(db, group, user).items() if k not in times} == {
            k: v for k, v in before.items() if k not in times
        }

    @pytest.mark.parametrize(("others", "slot"), [([3], 4), ([3, 4], 2)])
    def test_when_it_fails_later_and_the_old_slot_is_taken_the_next_is_given_and_answered(
        self, db: Database, group: str, seat: uuid.UUID, others: list[int], slot: int
    ) -> None:
        refund(db, seat)
        for position in others:
            join(db, group, position=position)
        answer = refund(db, seat, status="failed")
        assert (db.state(seat), slot_of(db, group, db.session(seat)["user_id"])) == (
            ("completed", "fulfilled", None),
            slot,
        )
        assert (answer["position"], answer["fulfilment"]["position"]) == (slot, slot)

    def test_when_only_a_part_of_it_fails_later_the_slot_is_given_back(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        refund(db, seat, 1, name="a")
        refund(db, seat, DEPOSIT - 1, name="b")
        assert slot_of(db, group, user) is None
        refund(db, seat, 1, status="failed", name="a")
        assert (db.state(seat), slot_of(db, group, user)) == (("partially_refunded", "fulfilled", None), 3)

    def test_when_it_fails_later_and_the_group_is_full_a_person_is_asked_and_a_retry_works_once_there_is_a_place(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        refund(db, seat)
        *_, last = (join(db, group, position=position)["session_id"] for position in (2, 3, 4))
        refund(db, seat, status="failed")
        assert db.state(seat) == ("completed", "reversed", "reversal_failed")
        assert retry(db, seat)["review_reason"] == "reversal_failed"
        assert db.state(seat) == ("completed", "reversed", "reversal_failed")
        assert slot_of(db, group, user) is None

        refund(db, last)
        answer = retry(db, seat)
        assert (db.state(seat), slot_of(db, group, user)) == (("completed", "fulfilled", None), 4)
        assert (answer["position"], answer["fulfilment"]["position"]) == (4, 4)
        with refused("PT409", "nothing_to_retry"):
            retry(db, seat)

    def test_when_it_fails_later_and_the_group_was_closed_a_person_is_asked(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        refund(db, seat)
        set_status(db, group, "closed")
        refund(db, seat, status="failed")
        assert db.state(seat) == ("completed", "reversed", "reversal_failed")
        set_status(db, group, "open")
        retry(db, seat)
        assert (db.state(seat), slot_of(db, group, user)) == (("completed", "fulfilled", None), 3)

    def test_who_left_can_join_again(self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID) -> None:
        refund(db, seat)
        answer = join(db, group, user, position=4)
        assert answer["position"] == 4
        assert uuid.UUID(answer["session_id"]) == member(db, group, user)["session_id"] != seat
        assert sorted(seats(db, group)) == [1, 4]

    def test_who_left_and_joined_again_is_not_seated_twice_when_the_old_refund_fails(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        refund(db, seat)
        again = join(db, group, user, position=4)["session_id"]
        before = member(db, group, user)
        refund(db, seat, status="failed")
        assert db.state(seat) == ("completed", "reversed", "reversal_failed")
        assert retry(db, seat)["review_reason"] == "reversal_failed"
        assert (member(db, group, user), sorted(seats(db, group))) == (before, [1, 4])
        assert db.state(again) == ("completed", "fulfilled", None)

        refund(db, again)
        answer = retry(db, seat)
        assert db.state(seat) == ("completed", "fulfilled", None)
        assert member(db, group, user)["session_id"] == seat
        assert answer["position"] == slot_of(db, group, user) == 3

    def test_the_full_refund_of_a_session_that_is_no_longer_the_members_own_takes_nothing(
        self, db: Database, user: uuid.UUID, group: str, seat: uuid.UUID
    ) -> None:
        refund(db, seat)
        join(db, group, user, position=4)
        refund(db, seat, status="failed")
        refund(db, seat, name="once more")
        assert db.state(seat)[:2] == ("refunded", "reversed")
        assert slot_of(db, group, user) == 4

    def test_two_refunds_that_fail_at_once_with_one_place_left_give_it_to_one(self, db: Database) -> None:
        group = new_group(db, 3)
        left = [join(db, group)["session_id"] for _ in range(2)]
        for session_id in left:
            refund(db, session_id)
        join(db, group)
        all_at_once([partial(refund, db, session_id, status="failed") for session_id in left])
        assert sorted(seats(db, group)) == [1, 2, 3]
        assert Counter(db.state(session_id)[1:] for session_id in left) == {
            ("fulfilled", None): 1, ("reversed", "reversal_failed"): 1,
        }  # fmt: skip


class TestRefundOfAGroup:
    def test_when_nobody_else_is_in_it_the_group_is_closed_and_when_undone_open_again(
        self, db: Database, user: uuid.UUID
    ) -> None:
        group = new_group(db, creator=user, position=2)
        refund(db, group)
        assert db.state(group) == ("refunded", "reversed", None)
        assert (group_row(db, group)["status"], seats(db, group)) == ("closed", {})
        with refused("PT409", "group_full"):
            ask(db, db.new_user(), JOIN, group)

        assert refund(db, group, status="failed")["position"] == 2
        assert db.state(group) == ("completed", "fulfilled", None)
        assert (group_row(db, group)["status"], seats(db, group)) == ("open", {2: user})
        assert join(db, group)["position"] == 1

    def test_when_others_are_in_it_the_group_stays_open_and_the_slot_is_free(
        self, db: Database, user: uuid.UUID
    ) -> None:
        group, friend = new_group(db, creator=user), db.new_user()
        join(db, group, friend)
        refund(db, group)
        assert (group_row(db, group)["status"], seats(db, group)) == ("open", {2: friend})
        heir = db.new_user()
        assert join(db, group, heir)["position"] == 1

        refund(db, group, status="failed")
        assert db.state(group) == ("completed", "fulfilled", None)
        assert (group_row(db, group)["status"], seats(db, group)) == ("open", {1: heir, 2: friend, 3: user})

    def test_when_undone_and_the_group_is_full_a_person_is_asked_and_a_retry_works(
        self, db: Database, user: uuid.UUID
    ) -> None:
        group, friend = new_group(db, 2, creator=user), db.new_user()
        join(db, group, friend)
        refund(db, group)
        heir = join(db, group)["session_id"]
        refund(db, group, status="failed")
        assert db.state(group) == ("completed", "reversed", "reversal_failed")
        refund(db, heir)
        assert retry(db, group)["position"] == 1
        assert (db.state(group), seats(db, group)) == (("completed", "fulfilled", None), {1: user, 2: friend})

    def test_in_part_it_changes_nothing(self, db: Database, user: uuid.UUID) -> None:
        group = new_group(db, creator=user)
        refund(db, group, 9999)
        assert db.state(group) == ("partially_refunded", "fulfilled", None)
        assert (group_row(db, group)["status"], seats(db, group)) == ("open", {1: user})

    def test_in_part_it_does_not_open_a_group_that_somebody_closed(self, db: Database, user: uuid.UUID) -> None:
        group = new_group(db, creator=user)
        join(db, group)
        set_status(db, group, "closed")
        refund(db, group, 1)
        assert group_row(db, group)["status"] == "closed"

    def test_a_buyer_who_pays_after_the_group_was_closed_gets_the_place_once_it_is_open_again(
        self, db: Database, user: uuid.UUID
    ) -> None:
        group = new_group(db)
        session_id = ask(db, user, JOIN, group)
        refund(db, group)
        pay(db, session_id)
        assert_is_waiting(db, session_id)
        refund(db, group, status="failed")
        assert retry(db, session_id)["position"] == 2

    @pytest.mark.parametrize("committed", [True, False])
    def test_a_buyer_who_pays_while_the_group_is_being_closed_waits_and_knows(
        self, db: Database, user: uuid.UUID, committed: bool
    ) -> None:
        group = new_group(db)
        page = db.open_attempt(ask(db, user, JOIN, group))
        with db.as_service().request() as request:
            call(
                request, "refund_checkout_session",
                p_session_id=group, p_provider_refund_id="re_1", p_amount=10000,
            )  # fmt: skip
            waiting = start_and_see_it_wait(db, partial(db.apply, page))
            if not committed:
                request.rollback()
        assert waiting.result(WAIT)["fulfilment_status"] == ("failed" if committed else "fulfilled")
        assert group_row(db, group)["status"] == ("closed" if committed else "open")

    def test_a_group_is_not_closed_over_a_buyer_who_was_first(self, db: Database, user: uuid.UUID) -> None:
        group = new_group(db)
        page = db.open_attempt(ask(db, user, JOIN, group))
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(page))
            waiting = start_and_see_it_wait(db, partial(refund, db, group))
        assert waiting.result(WAIT)["status"] == "refunded"
        assert (group_row(db, group)["status"], seats(db, group)) == ("open", {2: user})


class TestDeletedUsers:
    @pytest.mark.parametrize("who", ["creator", "member"])
    def test_their_slot_is_free_and_the_group_stays(self, db: Database, user: uuid.UUID, who: str) -> None:
        creator, friend = db.new_user(), db.new_user()
        group = new_group(db, 2, creator=creator)
        join(db, group, friend)
        waiting = new_group(db, 2)  # another group, which must not change
        gone, slot = (creator, 1) if who == "creator" else (friend, 2)
        db.sql("delete from auth.users where id = %s", gone)
        assert (group_row(db, group)["status"], slot in seats(db, group)) == ("open", False)
        assert join(db, group, user)["position"] == slot
        assert sorted(seats(db, waiting)) == [1]

    def test_who_waits_for_a_place_gets_theirs(self, db: Database, user: uuid.UUID) -> None:
        group, friend = new_group(db, 2), db.new_user()
        session_id = ask(db, user, JOIN, group)
        join(db, group, friend)
        pay(db, session_id)
        db.sql("delete from auth.users where id = %s", friend)
        assert retry(db, session_id)["position"] == 2

    def test_money_that_comes_for_them_seats_nobody(self, db: Database, user: uuid.UUID) -> None:
        group = new_group(db)
        page = db.open_attempt(ask(db, user, JOIN, group))
        db.sql("delete from auth.users where id = %s", user)
        assert db.apply(page)["review_reason"] == "session_deleted"
        assert sorted(seats(db, group)) == [1]
