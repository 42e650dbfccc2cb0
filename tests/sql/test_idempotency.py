"""begin_, finish_idempotent_request: one caller does the work, everybody gets its answer."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, call, refused
from tests.support.races import all_at_once, start_and_see_it_wait

BEGIN, FINISH, CLEANUP = "begin_idempotent_request", "finish_idempotent_request", "cleanup_idempotency_keys"
WAIT = 30  # seconds until a waiter is given up; nothing here takes long


def begin(db: Database, key: str | None = "k", request_hash: str | None = "h", user: uuid.UUID | None = None) -> Any:
    return db.as_service().rpc(BEGIN, p_key=key, p_request_hash=request_hash, p_user_id=user)


def finish(
    db: Database, response: Any, status: str | None = "completed", key: str = "k", claim: int | None = None
) -> None:
    by = {} if claim is None else {"p_claim": claim}
    db.as_service().rpc(FINISH, p_key=key, p_status=status, p_response=Jsonb(response), **by)


def works(answer: Any) -> bool:
    """This caller is the one who must do the work."""
    return isinstance(answer, dict) and answer["status"] == "new"


def end_lease(db: Database, key: str = "k") -> None:
    """The holder has been silent for too long."""
    db.sql("update payments.idempotency_keys set leased_until = now() - interval '1 s' where key = %s", key)


def age(db: Database, key: str, by: str) -> None:
    db.sql("update payments.idempotency_keys set updated_at = updated_at - %s::interval where key = %s", by, key)


def keys(db: Database) -> set[str]:
    return {row["key"] for row in db.sql("select key from payments.idempotency_keys")}


def stored(db: Database) -> Row:
    (row,) = db.sql("select * from payments.idempotency_keys")
    return row


class TestOneAfterTheOther:
    def test_the_first_caller_works(self, db: Database, user: uuid.UUID) -> None:
        assert works(begin(db, user=user))
        row = stored(db)
        assert (row["status"], row["user_id"], row["response"]) == ("pending", user, None)

    @pytest.mark.parametrize("response", [{"id": 7, "tags": ["a"]}, [], "text", 0, False, None])
    def test_a_repeat_gets_the_stored_answer_and_changes_nothing(self, db: Database, response: Any) -> None:
        begin(db)
        finish(db, response)
        before = db.everything()
        for _ in range(2):
            assert begin(db) == {"status": "completed", "response": response}
        assert db.everything() == before

    def test_an_answer_may_be_empty(self, db: Database) -> None:
        begin(db)
        db.as_service().rpc(FINISH, p_key="k", p_status="completed", p_response=None)
        assert begin(db) == {"status": "completed", "response": None}

    def test_a_repeat_while_the_first_works_is_told_to_come_back(self, db: Database) -> None:
        begin(db)
        before = db.everything()
        with refused("PT409", "request_in_progress"):
            begin(db)
        assert db.everything() == before

    def test_after_a_failure_the_next_caller_works_and_its_answer_counts(self, db: Database) -> None:
        begin(db)
        finish(db, {"error": "provider_down"}, "failed")
        assert works(begin(db))
        with refused("PT409", "request_in_progress"):
            begin(db)
        finish(db, {"id": 2})
        assert begin(db)["response"] == {"id": 2}

    @pytest.mark.parametrize("status", ["pending", "completed", "failed"])
    @pytest.mark.parametrize("other", ["body", "user", "nobody"])
    def test_another_request_under_the_same_key_is_a_conflict_whatever_became_of_the_first(
        self, db: Database, user: uuid.UUID, status: str, other: str
    ) -> None:
        begin(db, user=user)
        if status != "pending":
            finish(db, {}, status)
        end_lease(db)
        before = db.everything()
        with refused("PT409", "idempotency_conflict"):
            begin(
                db,
                request_hash="h2" if other == "body" else "h",
                user={"body": user, "user": uuid.uuid4(), "nobody": None}[other],
            )
        assert db.everything() == before

    def test_two_keys_are_two_requests(self, db: Database) -> None:
        assert all(works(begin(db, key)) for key in ("a", "b", "A"))
        finish(db, 1, key="a")
        assert begin(db, "a")["response"] == 1
        with refused("PT409", "request_in_progress"):
            begin(db, "b")

    def test_finishing_what_nobody_began_is_an_error(self, db: Database) -> None:
        begin(db, "a")
        before = db.everything()
        for claim in (None, 1):
            with refused("PT404", "idempotency_key_unknown"):
                finish(db, 1, key="b", claim=claim)
        assert db.everything() == before

    @pytest.mark.parametrize("status", ["completed", "failed"])
    def test_what_has_ended_cannot_end_otherwise(self, db: Database, status: str) -> None:
        begin(db)
        finish(db, 1, status)
        before = db.everything()
        for late in ("completed", "failed"):
            finish(db, 2, late)
        assert db.everything() == before


class TestInput:
    @pytest.mark.parametrize("bad", [None, "", "x" * 301])
    def test_key_and_hash_must_have_1_to_300_characters(self, db: Database, bad: str | None) -> None:
        with refused("PT422", "invalid_input"):
            begin(db, key=bad)
        with refused("PT422", "invalid_input"):
            begin(db, request_hash=bad)
        assert keys(db) == set()

    @pytest.mark.parametrize("longest", ["x" * 300, "é🦊" * 150, " "])
    def test_1_to_300_characters_of_any_kind_are_accepted(self, db: Database, longest: str) -> None:
        assert works(begin(db, longest, longest))
        finish(db, 1, key=longest)
        assert begin(db, longest, longest)["response"] == 1

    @pytest.mark.parametrize("bad", [None, "", "pending", "COMPLETED"])
    def test_a_request_ends_as_completed_or_failed_only(self, db: Database, bad: str | None) -> None:
        begin(db)
        with refused("PT422", "invalid_input"):
            finish(db, 1, bad)
        assert stored(db)["status"] == "pending"

    def test_only_the_service_may_ask(self, db: Database, user: uuid.UUID) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            for function, arguments in (
                (BEGIN, {"p_key": "k", "p_request_hash": "h"}),
                (FINISH, {"p_key": "k", "p_status": "completed", "p_response": {}}),
                (CLEANUP, {}),
            ):
                with refused("42501"):
                    caller.rpc(function, **arguments)


class TestManyAtOnce:
    def test_of_16_callers_exactly_one_works(self, db: Database) -> None:
        answers = all_at_once([partial(answer_or_reason, begin, db)] * 16)
        assert Counter("new" if works(answer) else answer for answer in answers) == {
            "new": 1,
            "request_in_progress": 15,
        }

    @pytest.mark.parametrize("state", ["crashed", "failed"])
    def test_of_16_callers_after_a_crash_or_a_failure_exactly_one_takes_over(self, db: Database, state: str) -> None:
        begin(db)
        if state == "failed":
            finish(db, {}, "failed")
        else:
            end_lease(db)
        answers = all_at_once([partial(answer_or_reason, begin, db)] * 16)
        assert Counter("new" if works(answer) else answer for answer in answers) == {
            "new": 1,
            "request_in_progress": 15,
        }

    def test_16_requests_with_different_bodies_under_one_key_are_one_winner_and_15_conflicts(
        self, db: Database
    ) -> None:
        answers = all_at_once([partial(answer_or_reason, begin, db, "k", f"h{number}") for number in range(16)])
        assert Counter("new" if works(answer) else answer for answer in answers) == {
            "new": 1,
            "idempotency_conflict": 15,
        }

    def test_a_caller_whose_claim_was_never_committed_leaves_the_work_to_the_one_who_waits(self, db: Database) -> None:
        with db.as_service().request() as first:
            assert works(call(first, BEGIN, p_key="k", p_request_hash="h"))
            second = start_and_see_it_wait(db, partial(begin, db))
            first.rollback()
        assert works(second.result(WAIT))

    def test_a_repeat_that_waits_for_the_end_of_the_first_gets_its_answer(self, db: Database) -> None:
        with db.as_service().request() as first:
            call(first, BEGIN, p_key="k", p_request_hash="h")
            call(first, FINISH, p_key="k", p_status="completed", p_response={"id": 1})
            second = start_and_see_it_wait(db, partial(begin, db))
        assert second.result(WAIT) == {"status": "completed", "response": {"id": 1}}

    @pytest.mark.parametrize("signed_in", [True, False])
    def test_a_caller_whose_key_is_cleaned_up_meanwhile_claims_it_anew(
        self, db: Database, user: uuid.UUID, signed_in: bool
    ) -> None:
        holder = user if signed_in else None
        begin(db, user=holder)
        finish(db, 1)
        age(db, "k", "2 days")
        with psycopg.connect(db.url()) as cleaner:
            cleaner.execute("select from payments.idempotency_keys for update")
            second = start_and_see_it_wait(db, partial(begin, db, user=holder))
            cleaner.execute("select public.cleanup_idempotency_keys()")
        assert works(second.result(WAIT))
        assert (stored(db)["status"], stored(db)["user_id"]) == ("pending", holder)


class TestCrashedHolder:
    def test_the_lease_is_as_long_as_the_settings_say(self, db: Database) -> None:
        db.sql("update payments.settings set idempotency_lease = '90 seconds'")
        for reclaim in (False, True):
            begin(db)
            row = stored(db)
            assert (row["leased_until"] - row["updated_at"]).total_seconds() == 90
            if not reclaim:
                end_lease(db)
        with pytest.raises(psycopg.errors.CheckViolation):
            db.sql("update payments.settings set idempotency_lease = '0'")

    def test_the_late_end_of_the_first_holder_does_not_change_what_repeats_are_told(self, db: Database) -> None:
        begin(db)
        end_lease(db)
        assert works(begin(db))
        finish(db, {"by": "second"})
        before = db.everything()
        for status in ("completed", "failed"):
            finish(db, {"by": "first"}, status)
        assert db.everything() == before
        assert begin(db)["response"] == {"by": "second"}

    def test_without_claims_the_first_answer_after_a_take_over_counts(self, db: Database) -> None:
        begin(db)
        end_lease(db)
        begin(db)
        finish(db, {"by": "first"})
        finish(db, {"by": "second"})
        assert begin(db)["response"] == {"by": "first"}

    def test_every_holder_has_a_claim_of_its_own(self, db: Database) -> None:
        claims = [begin(db)["claim"]]
        end_lease(db)
        claims.append(begin(db)["claim"])
        finish(db, {}, "failed")
        claims.append(begin(db)["claim"])
        assert claims == [1, 2, 3]

    @pytest.mark.parametrize("status", ["completed", "failed"])
    def test_a_holder_that_was_taken_over_ends_nothing_while_the_new_one_works(self, db: Database, status: str) -> None:
        first = begin(db)["claim"]
        end_lease(db)
        second = begin(db)["claim"]
        before = db.everything()
        finish(db, {"by": "first"}, status, claim=first)
        assert db.everything() == before
        with refused("PT409", "request_in_progress"):
            begin(db)
        finish(db, {"by": "second"}, claim=second)
        assert begin(db)["response"] == {"by": "second"}

    def test_a_slow_holder_that_nobody_took_over_may_still_end_its_work(self, db: Database) -> None:
        claim = begin(db)["claim"]
        end_lease(db)
        finish(db, {"by": "first"}, claim=claim)
        assert begin(db)["response"] == {"by": "first"}


class TestCleanup:
    def cleanup(self, db: Database, **arguments: Any) -> int:
        count = db.as_service().rpc(CLEANUP, **arguments)
        assert isinstance(count, int)
        return count

    def test_finished_and_abandoned_requests_of_yesterday_are_forgotten_and_counted(self, db: Database) -> None:
        db.sql("update payments.settings set idempotency_lease = '3 days'")
        names = {"done", "failed", "crashed", "working", "fresh"}
        for name in names:
            begin(db, name)
        finish(db, 1, key="done")
        finish(db, 1, "failed", key="failed")
        end_lease(db, "crashed")
        for name in names - {"fresh"}:
            age(db, name, "25 hours")
        assert self.cleanup(db) == 3
        assert keys(db) == {"working", "fresh"}
        assert self.cleanup(db) == 0
        with refused("PT409", "request_in_progress"):
            begin(db, "working")
        assert works(begin(db, "done"))

    def test_how_old_is_for_the_caller_to_say(self, db: Database) -> None:
        for name, hours in (("a", 1), ("b", 3)):
            begin(db, name)
            finish(db, 1, key=name)
            age(db, name, f"{hours} hours")
        assert self.cleanup(db, p_older_than="2 hours") == 1
        assert keys(db) == {"a"}
        assert self.cleanup(db, p_older_than=None) == 0
