"""Rate limits: new sessions and verifications per user; what writes nothing is never limited."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.support.database import Actor, Database, Row, call, refused
from tests.support.races import all_at_once, start_and_see_it_wait

WAIT = 30  # seconds until a waiter is given up; nothing here takes long
ASK = "get_or_create_checkout_session"
VERIFY = "find_checkout_attempt"
TOO_MANY = ("PT429", "too_many_requests")


def settings(db: Database, **values: Any) -> None:
    for name, value in values.items():
        db.sql(f"update payments.settings set {name} = %s", value)


def buy(caller: Actor, subject: str, **arguments: Any) -> Any:
    """Ask for a session; another subject is another purchase."""
    return caller.rpc(ASK, p_plan="credits_100", p_subject=subject, **arguments)


def verify(db: Database, session_id: uuid.UUID | str, user_id: uuid.UUID | None) -> Row:
    answer: Row = db.as_service().rpc(VERIFY, p_session_id=session_id, p_user_id=user_id)
    return answer


def retry_after(caught: pytest.ExceptionInfo[Any]) -> int:
    """The seconds that a refusal's hint names."""
    found = re.search(r"retry_after=(\d+)\b", caught.value.diag.message_hint)
    assert found
    return int(found[1])


def age_sessions(connection: Any, seconds: dict[uuid.UUID, int]) -> None:
    """Make sessions as old as this; their ids tell the time too."""
    for session_id, age in seconds.items():
        connection.execute(
            "update public.payment_checkout_sessions as s set created_at = t.at,"
            " id = overlay(s.id::text placing left(payments.first_id_at(t.at)::text, 13) from 1)::uuid"
            " from (select now() - %s * interval '1 s' as at) as t where s.id = %s",
            (age, session_id),
        )


@pytest.fixture(autouse=True)
def _no_guarantee_is_broken_at_the_end(db: Database) -> Iterator[None]:
    yield
    assert db.as_service().rpc("check_payment_invariants") == []


class TestNewSessions:
    @pytest.fixture(autouse=True)
    def _three_a_minute(self, db: Database) -> None:
        settings(db, create_limit=3)

    @pytest.fixture
    def three(self, db: Database, user: uuid.UUID) -> list[uuid.UUID]:
        """As many sessions as the user may make."""
        return [buy(db.as_user(user), str(number)) for number in range(3)]

    def test_the_next_one_is_refused_with_the_time_to_wait_and_leaves_no_trace(
        self, db: Database, user: uuid.UUID, three: list[uuid.UUID]
    ) -> None:
        assert len(set(three)) == 3
        before = db.everything()
        with refused(*TOO_MANY) as caught:
            buy(db.as_user(user), "3")
        assert 1 <= retry_after(caught) <= 60
        assert db.everything() == before

    def test_60_a_minute_unless_the_installation_says_otherwise(self, db: Database, user: uuid.UUID) -> None:
        db.sql("delete from payments.settings")
        db.sql("insert into payments.settings default values")
        caller = db.as_user(user)
        many = caller.sql(f"select {ASK}('credits_100', p_subject => n::text) from generate_series(1, 60) as n")
        assert len(many) == 60
        with refused(*TOO_MANY):
            buy(caller, "61")

    @pytest.mark.parametrize(
        ("ages", "wait"),
        [((50, 30, 10), 10), ((59, 58, 57), 1), ((20, 20, 20), 40), ((0, 0, 0), 60), ((99, 2, 1), None)],
    )
    def test_the_oldest_one_in_the_window_makes_room_when_it_is_a_minute_old(
        self, db: Database, user: uuid.UUID, three: list[uuid.UUID], ages: tuple[int, ...], wait: int | None
    ) -> None:
        arguments = {"p_plan": "credits_100", "p_subject": "3", "p_user_id": user}
        if wait is None:
            with db.as_owner().request() as connection:
                age_sessions(connection, dict(zip(three, ages, strict=True)))
                assert call(connection, ASK, **arguments) not in three
            return
        # in one transaction, because time stands still there
        with refused(*TOO_MANY) as caught, db.as_owner().request() as connection:
            age_sessions(connection, dict(zip(three, ages, strict=True)))
            call(connection, ASK, **arguments)
        assert retry_after(caught) == wait

    def test_the_window_slides_with_every_session(self, db: Database, user: uuid.UUID, three: list[uuid.UUID]) -> None:
        with db.as_owner().request() as connection:
            age_sessions(connection, dict(zip(three, (70, 65, 10), strict=True)))
        caller = db.as_user(user)
        for subject in ("3", "4"):
            buy(caller, subject)
        with refused(*TOO_MANY):
            buy(caller, "5")

    def test_the_window_is_a_setting(self, db: Database, user: uuid.UUID, three: list[uuid.UUID]) -> None:
        settings(db, rate_window="1 hour")
        with db.as_owner().request() as connection:
            age_sessions(connection, dict.fromkeys(three, 3500))
        with refused(*TOO_MANY):
            buy(db.as_user(user), "3")
        settings(db, rate_window="50 minutes")
        buy(db.as_user(user), "3")

    @pytest.mark.usefixtures("three")
    def test_other_users_are_not_affected(self, db: Database) -> None:
        other = db.as_user(db.new_user())
        assert len({buy(other, str(number)) for number in range(3)}) == 3

    def test_an_open_session_is_given_again_and_nothing_is_written(
        self, db: Database, user: uuid.UUID, three: list[uuid.UUID]
    ) -> None:
        for _ in range(5):
            again = db.as_user(user).rpc_that_only_reads(ASK, p_plan="credits_100", p_subject="1")
            assert again == three[1]

    def test_a_key_is_replayed_and_nothing_is_written(self, db: Database, user: uuid.UUID) -> None:
        caller = db.as_user(user)
        keys = {key: buy(caller, key, p_idempotency_key=key) for key in ("a", "b", "c")}
        db.close(keys["a"])
        for key, session_id in keys.items():
            arguments = {"p_plan": "credits_100", "p_subject": key, "p_idempotency_key": key}
            assert caller.rpc_that_only_reads(ASK, **arguments) == session_id

    def test_a_free_purchase_is_repeated_and_nothing_is_doubled(self, db: Database, user: uuid.UUID) -> None:
        settings(db, create_limit=1)
        db.sql("insert into payments.coupons (id, percent_off) values ('FREE', 100)")
        free = {buy(db.as_user(user), "s", p_coupon="FREE") for _ in range(3)}
        assert len(free) == 1
        with refused(*TOO_MANY):
            buy(db.as_user(user), "t", p_coupon="FREE")
        assert db.entries(user) == [100]

    def test_null_is_no_limit(self, db: Database, user: uuid.UUID, three: list[uuid.UUID]) -> None:
        settings(db, create_limit=None)
        more = {buy(db.as_user(user), str(number)) for number in range(3, 8)}
        assert len(more - set(three)) == 5

    @pytest.mark.parametrize("wrong", [{"create_limit": 0}, {"verify_limit": -1}, {"rate_window": "0"}], ids=str)
    def test_limits_that_let_nobody_through_are_refused(self, db: Database, wrong: Row) -> None:
        with refused("23514"):
            settings(db, **wrong)

    @pytest.mark.usefixtures("three")
    def test_the_service_that_acts_for_a_user_is_limited_like_the_user(self, db: Database, user: uuid.UUID) -> None:
        with refused(*TOO_MANY):
            db.new_session(user, p_subject="3")
        db.new_session(db.new_user(), p_subject="3")

    def test_sessions_that_have_ended_count_too(self, db: Database, user: uuid.UUID, three: list[uuid.UUID]) -> None:
        db.close(three[0])
        db.complete(three[1], p_provider_payment_id="pi_1")
        for subject in ("0", "1"):
            with refused(*TOO_MANY):
                buy(db.as_user(user), subject)

    @pytest.mark.parametrize(
        "change", [{"p_provider": "paystack"}, {"p_currency": "NGN"}, {"p_coupon": "HALF"}], ids=str
    )
    def test_a_refused_change_leaves_the_open_session_untouched(
        self, db: Database, user: uuid.UUID, three: list[uuid.UUID], change: Row
    ) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('HALF', 50)")
        before = db.everything()
        with refused(*TOO_MANY):
            buy(db.as_user(user), "0", **change)
        assert db.everything() == before
        assert buy(db.as_user(user), "0") == three[0]

    def test_a_refused_successor_leaves_the_lapsed_session_as_it_is(
        self, db: Database, user: uuid.UUID, three: list[uuid.UUID]
    ) -> None:
        db.lapse(three[0])
        before = db.everything()
        with refused(*TOO_MANY):
            buy(db.as_user(user), "0")
        assert db.everything() == before

    def test_a_call_that_is_refused_for_another_reason_does_not_count(self, db: Database, user: uuid.UUID) -> None:
        caller = db.as_user(user)
        for _ in range(5):
            with refused("PT422", "price_mismatch"):
                buy(caller, "0", p_price=1)
        assert len({buy(caller, str(number)) for number in range(3)}) == 3

    def test_a_refusal_does_not_prolong_the_wait(self, db: Database, user: uuid.UUID, three: list[uuid.UUID]) -> None:
        for _ in range(5):
            with refused(*TOO_MANY):
                buy(db.as_user(user), "3")
        with db.as_owner().request() as connection:
            age_sessions(connection, {three[0]: 61})
        assert buy(db.as_user(user), "3") not in three

    def test_16_callers_for_the_last_place_get_one_session(self, db: Database, user: uuid.UUID) -> None:
        caller = db.as_user(user)
        taken = [buy(caller, subject) for subject in ("0", "1")]
        last = set(all_at_once([partial(buy, caller, "2")] * 16))
        assert (len(last), last & set(taken)) == (1, set())

    def test_who_saw_no_open_session_and_lost_the_last_place_to_it_gets_that_session(
        self, db: Database, user: uuid.UUID
    ) -> None:
        caller = db.as_user(user)
        for subject in ("0", "1"):
            buy(caller, subject)
        with db.as_owner().request() as gate:
            gate.execute("select pg_advisory_xact_lock(1)")
            with caller.request() as first:
                won = call(first, ASK, p_plan="credits_100", p_subject="2")
                # a caller that has found no open session waits before its sessions are counted
                db.sql("alter function payments.limit_new_sessions rename to limit_new_sessions_at_last")
                db.sql(
                    "create function payments.limit_new_sessions(p_user_id uuid, p_now timestamptz) returns void"
                    " language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(1);"
                    " perform payments.limit_new_sessions_at_last(p_user_id, p_now); end $$"
                )
                second = start_and_see_it_wait(db, partial(buy, caller, "2"))
        assert second.result(WAIT) == won

    def test_of_two_callers_for_the_last_place_the_second_takes_it_when_the_first_dies(
        self, db: Database, user: uuid.UUID
    ) -> None:
        caller = db.as_user(user)
        for subject in ("0", "1"):
            buy(caller, subject)
        with caller.request() as first:
            call(first, ASK, p_plan="credits_100", p_subject="2")
            second = start_and_see_it_wait(db, partial(buy, caller, "2"))
            first.rollback()
        assert db.session(second.result(WAIT))["status"] == "pending"

    def test_verifications_do_not_use_up_new_sessions(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        for _ in range(5):
            verify(db, session_id, user)
        assert len({session_id} | {buy(db.as_user(user), subject) for subject in ("1", "2")}) == 3


class TestVerifications:
    @pytest.fixture(autouse=True)
    def _three_a_minute(self, db: Database) -> None:
        settings(db, verify_limit=3)

    @staticmethod
    def counted(db: Database) -> list[tuple[uuid.UUID, int]]:
        rows = db.sql("select * from payments.rate_limits")
        assert {row["action"] for row in rows} <= {"verify"}
        return [(row["user_id"], row["calls"]) for row in rows]

    @pytest.fixture
    def used_up(self, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
        """The user has verified as often as allowed."""
        for _ in range(3):
            assert verify(db, session_id, user)["session_id"] == str(session_id)

    @pytest.mark.usefixtures("used_up")
    def test_the_next_one_is_refused_with_the_time_to_wait_and_leaves_no_trace(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        assert self.counted(db) == [(user, 3)]
        before = db.everything()
        for _ in range(3):
            with refused(*TOO_MANY) as caught:
                verify(db, session_id, user)
            assert 1 <= retry_after(caught) <= 60
        assert db.everything() == before

    @pytest.mark.usefixtures("used_up")
    @pytest.mark.parametrize(("age", "wait"), [(0, 60), (45, 15), (58.5, 2), (59.5, 1)])
    def test_the_wait_is_what_is_left_of_the_window(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, age: float, wait: int
    ) -> None:
        with refused(*TOO_MANY) as caught, db.as_owner().request() as connection:
            connection.execute(
                "update payments.rate_limits set window_started_at = now() - %s * interval '1 s'", (age,)
            )
            call(connection, VERIFY, p_session_id=session_id, p_user_id=user)
        assert retry_after(caught) == wait

    @pytest.mark.usefixtures("used_up")
    def test_when_the_window_is_over_the_count_starts_again(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        db.sql("update payments.rate_limits set window_started_at = now() - interval '1 minute'")
        for calls in (1, 2, 3):
            verify(db, session_id, user)
            assert self.counted(db) == [(user, calls)]
        with refused(*TOO_MANY):
            verify(db, session_id, user)

    @pytest.mark.usefixtures("used_up")
    def test_the_window_and_the_limit_are_settings(self, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
        settings(db, verify_limit=4)
        verify(db, session_id, user)
        db.sql("update payments.rate_limits set window_started_at = now() - interval '2 minutes'")
        settings(db, rate_window="1 hour")
        with refused(*TOO_MANY):
            verify(db, session_id, user)

    def test_60_a_minute_unless_the_installation_says_otherwise(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        db.sql("delete from payments.settings")
        db.sql("insert into payments.settings default values")
        verify(db, session_id, user)
        db.sql("update payments.rate_limits set calls = 59")
        verify(db, session_id, user)
        with refused(*TOO_MANY):
            verify(db, session_id, user)

    def test_every_way_to_name_the_purchase_counts(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        ways: list[Row] = [
            {"p_session_id": session_id},
            {"p_reference": attempt["reference"]},
            {"p_provider": "stripe", "p_provider_session_id": attempt["provider_session_id"]},
        ]
        for way in ways:
            assert db.as_service().rpc(VERIFY, **way, p_user_id=user)["number"] == attempt["number"]
        assert self.counted(db) == [(user, 3)]
        for way in ways:
            with refused(*TOO_MANY):
                db.as_service().rpc(VERIFY, **way, p_user_id=user)

    @pytest.mark.usefixtures("used_up")
    def test_the_bridges_own_questions_are_neither_counted_nor_limited(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        for _ in range(5):
            answer = db.as_service().rpc_that_only_reads(VERIFY, p_session_id=session_id)
            assert answer["session_id"] == str(session_id)
        assert self.counted(db) == [(user, 3)]

    @pytest.mark.usefixtures("used_up")
    def test_other_users_are_not_affected(self, db: Database, user: uuid.UUID) -> None:
        other = db.new_user()
        verify(db, db.new_session(other), other)
        assert sorted(self.counted(db)) == sorted([(user, 3), (other, 1)])

    def test_all_sessions_of_a_user_count_together(self, db: Database, user: uuid.UUID) -> None:
        sessions = [db.new_session(user, p_subject=str(number)) for number in range(4)]
        for session_id in sessions[:3]:
            verify(db, session_id, user)
        with refused(*TOO_MANY):
            verify(db, sessions[3], user)

    def test_what_is_refused_for_another_reason_is_not_counted(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        with refused("PT403", "not_your_session"):
            verify(db, session_id, db.new_user())
        with refused("PT404", "session_not_found"):
            verify(db, uuid.UUID(int=1), user)
        assert self.counted(db) == []

    @pytest.mark.usefixtures("used_up")
    def test_null_is_no_limit_and_counts_nothing(self, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
        settings(db, verify_limit=None)
        for _ in range(3):
            db.as_service().rpc_that_only_reads(VERIFY, p_session_id=session_id, p_user_id=user)
        assert self.counted(db) == [(user, 3)]

    def test_of_16_callers_at_once_as_many_get_through_as_are_allowed(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        answers = all_at_once([partial(answer_or_reason, verify, db, session_id, user)] * 16)
        assert Counter(answer == "too_many_requests" for answer in answers) == {False: 3, True: 13}
        assert self.counted(db) == [(user, 3)]

    def test_the_second_of_two_waits_for_the_first_and_is_refused_when_nothing_is_left(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        settings(db, verify_limit=1)
        with db.as_service().request() as first:
            call(first, VERIFY, p_session_id=session_id, p_user_id=user)
            second = start_and_see_it_wait(db, partial(answer_or_reason, verify, db, session_id, user))
        assert second.result(WAIT) == "too_many_requests"

    def test_the_second_of_two_gets_through_when_the_first_dies(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        settings(db, verify_limit=1)
        with db.as_service().request() as first:
            call(first, VERIFY, p_session_id=session_id, p_user_id=user)
            second = start_and_see_it_wait(db, partial(verify, db, session_id, user))
            first.rollback()
        assert second.result(WAIT)["session_id"] == str(session_id)
        assert self.counted(db) == [(user, 1)]

    @pytest.mark.usefixtures("used_up")
    def test_a_deleted_user_leaves_no_row(self, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
        db.sql("delete from auth.users where id = %s", user)
        assert self.counted(db) == []
        with refused("PT404", "session_not_found"):
            verify(db, session_id, user)
        assert self.counted(db) == []

    @pytest.mark.usefixtures("used_up")
    def test_the_payment_itself_is_never_held_up(self, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
        assert db.complete(session_id, p_provider_payment_id="pi_1")["status"] == "completed"
        assert db.entries(user) == [100]

    def test_nobody_sees_the_counts(self, db: Database, user: uuid.UUID) -> None:
        for reader in (db.as_user(user), db.as_anon(), db.as_service()):
            with refused("42501"):
                reader.sql("select * from payments.rate_limits")
