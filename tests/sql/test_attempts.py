"""Attempts: stored before their page, shown again while it lives, replaced when it does not."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import Database, Row, refused

if TYPE_CHECKING:
    import uuid

HALF_AN_HOUR = timedelta(minutes=30)


def opened(db: Database, session_id: uuid.UUID, **arguments: Any) -> Row:
    attempt: Row = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, **arguments)
    return attempt


def attach(db: Database, attempt: Row, page: str, **arguments: Any) -> None:
    db.as_service().rpc(
        "attach_checkout_attempt",
        p_attempt=attempt["number"], p_provider_session_id=page, p_checkout_url=f"https://pay.test/{page}", **arguments,
    )  # fmt: skip


def stored(db: Database, attempt: Row) -> Row:
    (row,) = db.sql("select * from payments.attempts where number = %s", attempt["number"])
    return row


class TestOpen:
    def test_the_attempt_and_its_reference_are_stored_before_there_is_a_page(self, db: Database) -> None:
        session_id = db.new_session(p_email="buyer@shop.test")
        attempt = opened(db, session_id)
        row = stored(db, attempt)
        assert (row["session_id"], row["reference"], row["checkout_url"]) == (session_id, attempt["reference"], None)
        assert (attempt["amount"], attempt["currency"], attempt["email"]) == (500, "USD", "buyer@shop.test")
        assert (attempt["product_id"], attempt["product_name"]) == ("credits_100", "100 credits")
        assert attempt["checkout_url"] is None
        session = db.session(session_id)
        assert (session["attempts"], session["current_attempt"], session["status"]) == (1, attempt["number"], "pending")

    def test_the_reference_is_opaque(self, db: Database) -> None:
        user = db.new_user("secret.name@shop.test")
        reference = opened(db, db.new_session(user))["reference"]
        assert re.fullmatch("[0-9a-f]{32}", reference)
        assert user.hex[:8] not in reference

    def test_a_live_page_is_shown_again(self, db: Database) -> None:
        session_id = db.new_session()
        first = db.open_attempt(session_id)
        again = opened(db, session_id)
        assert (again["number"], again["reference"]) == (first["number"], first["reference"])
        assert again["checkout_url"] == f"https://pay.test/{first['provider_session_id']}"
        assert db.session(session_id)["attempts"] == 1

    def test_an_attempt_without_a_page_is_continued_for_ten_minutes(self, db: Database) -> None:
        session_id = db.new_session()
        first = opened(db, session_id)
        db.sql("update payments.attempts set created_at = now() - interval '9 minutes'")
        assert opened(db, session_id)["reference"] == first["reference"]
        db.sql("update payments.attempts set created_at = now() - interval '11 minutes'")
        assert opened(db, session_id)["reference"] != first["reference"]
        assert db.session(session_id)["attempts"] == 2

    @pytest.mark.parametrize("word", ["failed", "expired", "cancelled"])
    def test_a_page_that_has_ended_is_not_shown_again(self, db: Database, word: str) -> None:
        session_id = db.new_session()
        first = db.open_attempt(session_id)
        db.sql("update payments.attempts set status = %s", word)
        second = opened(db, session_id)
        assert (second["number"] != first["number"], second["checkout_url"], second["other_pages"]) == (True, None, [])

    def test_another_provider_gets_an_attempt_of_its_own_and_names_the_page_to_close(self, db: Database) -> None:
        session_id = db.new_session()
        first = db.open_attempt(session_id, "cs_old")
        second = opened(db, session_id, p_provider="paystack")
        assert second["reference"] != first["reference"]
        assert second["other_pages"] == [{"provider": "stripe", "provider_session_id": "cs_old"}]
        session = db.session(session_id)
        assert (session["provider"], session["checkout_url"], session["provider_session_id"]) == (
            "paystack",
            None,
            None,
        )

    def test_a_new_page_gives_the_session_30_more_minutes_at_least(self, db: Database) -> None:
        session_id = db.new_session()
        db.sql("update public.payment_checkout_sessions set expires_at = now() + interval '20 s'")
        attempt = opened(db, session_id)
        session = db.session(session_id)
        assert session["expires_at"] == stored(db, attempt)["expires_at"] == session["updated_at"] + HALF_AN_HOUR

    def test_a_session_that_lives_longer_than_that_is_not_prolonged(self, db: Database) -> None:
        session_id = db.new_session()
        expires_at = db.session(session_id)["expires_at"]
        attempt = opened(db, session_id)
        assert db.session(session_id)["expires_at"] == stored(db, attempt)["expires_at"] == expires_at

    def test_clicks_in_the_last_minute_of_a_session_open_one_page(self, db: Database) -> None:
        session_id = db.new_session()
        db.sql("update public.payment_checkout_sessions set expires_at = now() + interval '20 s'")
        first = opened(db, session_id)
        assert opened(db, session_id)["number"] == first["number"]
        attach(db, first, "cs_1")
        assert opened(db, session_id)["number"] == first["number"]
        assert db.session(session_id)["attempts"] == 1

    def test_a_lapsed_session_cannot_be_opened(self, db: Database) -> None:
        session_id = db.new_session()
        db.lapse(session_id)
        with refused("PT410", "session_expired"):
            opened(db, session_id)

    @pytest.mark.parametrize("word", ["processing", "completed", "failed", "expired", "cancelled"])
    def test_only_a_pending_session_can_be_opened(self, db: Database, word: str) -> None:
        session_id = db.new_session()
        db.apply(db.open_attempt(session_id), word)
        assert db.session(session_id)["status"] == word
        with refused("PT409", "session_not_pending"):
            opened(db, session_id)

    def test_an_unknown_session_or_provider_is_refused(self, db: Database) -> None:
        with refused("PT404", "session_not_found"):
            opened(db, db.new_user())
        with refused("PT422", "provider_unknown"):
            opened(db, db.new_session(), p_provider="cash")


class TestOtherPages:
    """Pages on which the same purchase can still be paid: to be closed before another one opens."""

    @staticmethod
    def pages(answer: Row) -> list[str]:
        return [page["provider_session_id"] for page in answer["other_pages"]]

    def test_earlier_pages_of_the_purchase_are_named_the_newest_first(self, db: Database, user: uuid.UUID) -> None:
        for page in ("cs_1", "cs_2"):
            session_id = db.new_session(user)
            db.open_attempt(session_id, page)
            db.close(session_id)
        current = db.new_session(user)
        db.open_attempt(current, "cs_3")
        answer = opened(db, current, p_provider="paystack")
        assert self.pages(answer) == ["cs_3", "cs_2", "cs_1"]
        # whoever is asked about the buyer's payment hears of them too
        found = db.as_service().rpc("find_checkout_attempt", p_session_id=current)
        assert self.pages(found) == ["cs_3", "cs_2", "cs_1"]

    @pytest.mark.parametrize("word", ["expired", "failed", "cancelled"])
    def test_a_page_whose_provider_has_said_its_last_word_is_not_named(
        self, db: Database, user: uuid.UUID, attempt: Row, word: str
    ) -> None:
        db.apply(attempt, word)
        assert self.pages(opened(db, db.new_session(user))) == []

    def test_a_session_that_failed_by_our_word_alone_still_has_its_page(
        self, db: Database, user: uuid.UUID, attempt: Row
    ) -> None:
        db.as_service().rpc("fail_checkout_session", p_session_id=attempt["session_id"], p_error_code="x")
        assert self.pages(opened(db, db.new_session(user))) == [attempt["provider_session_id"]]

    def test_pages_of_other_purchases_are_not_named(self, db: Database, user: uuid.UUID) -> None:
        stranger = db.new_user()
        for buyer, plan, subject in (
            (stranger, "credits_100", None),
            (user, "credits_500", None),
            (user, "credits_100", "s"),
        ):
            session_id = db.new_session(buyer, plan, p_subject=subject)
            db.open_attempt(session_id)
            db.close(session_id)
        assert self.pages(opened(db, db.new_session(user))) == []

    def test_a_page_of_a_paid_session_is_not_named(self, db: Database, user: uuid.UUID, attempt: Row) -> None:
        db.apply(attempt)
        assert self.pages(opened(db, db.new_session(user))) == []

    def test_old_pages_are_forgotten_and_five_are_enough(self, db: Database, session_id: uuid.UUID) -> None:
        for number in range(7):
            page = f"cs_{number}"
            db.open_attempt(session_id, page)
            # as if the page had run out, which the provider has not told yet
            db.sql("update payments.attempts set expires_at = now() where provider_session_id = %s", page)
        assert self.pages(opened(db, session_id)) == ["cs_6", "cs_5", "cs_4", "cs_3", "cs_2"]
        db.sql("update payments.attempts set created_at = now() - interval '4 days' where provider_session_id = 'cs_5'")
        assert self.pages(opened(db, session_id)) == ["cs_6", "cs_4", "cs_3", "cs_2", "cs_1"]

    def test_a_page_that_is_shown_again_has_nothing_to_close(self, db: Database, session_id: uuid.UUID) -> None:
        db.open_attempt(session_id, "cs_1")
        attach(db, opened(db, session_id, p_provider="paystack"), "ps_1")
        again = opened(db, session_id, p_provider="paystack")
        assert (again["provider_session_id"], again["other_pages"]) == ("ps_1", [])


class TestAttach:
    @pytest.mark.parametrize(
        ("page", "url"), [(None, "https://pay.test"), ("", "https://pay.test"), ("p" * 256, "https://pay.test"),
                          ("cs_1", None), ("cs_1", "")],
    )  # fmt: skip
    def test_a_page_without_a_proper_name_or_address_is_refused(
        self, db: Database, session_id: uuid.UUID, page: str | None, url: str | None
    ) -> None:
        attempt = opened(db, session_id)
        with refused("PT422", "invalid_input"):
            db.as_service().rpc(
                "attach_checkout_attempt",
                p_attempt=attempt["number"], p_provider_session_id=page, p_checkout_url=url,
            )  # fmt: skip
        assert stored(db, attempt)["checkout_url"] is None

    def test_the_longest_name_that_is_allowed_is_stored(self, db: Database, session_id: uuid.UUID) -> None:
        attempt = opened(db, session_id)
        attach(db, attempt, "p" * 255)
        assert stored(db, attempt)["provider_session_id"] == "p" * 255

    def test_the_same_page_again_changes_nothing(self, db: Database) -> None:
        attempt = opened(db, db.new_session())
        attach(db, attempt, "cs_1")
        before = stored(db, attempt)
        attach(db, attempt, "cs_1")
        assert stored(db, attempt) == before

    def test_another_page_is_refused(self, db: Database) -> None:
        attempt = opened(db, db.new_session())
        attach(db, attempt, "cs_1")
        with refused("PT409", "attempt_attached"):
            attach(db, attempt, "cs_2")
        assert stored(db, attempt)["provider_session_id"] == "cs_1"

    def test_an_unknown_attempt_is_refused(self, db: Database) -> None:
        with refused("PT404", "attempt_not_found"):
            attach(db, {"number": 7}, "cs_1")

    def test_a_session_lives_at_least_as_long_as_its_page(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = opened(db, session_id)
        first_expiry = db.session(session_id)["expires_at"]
        shorter, longer = first_expiry - timedelta(hours=1), first_expiry + timedelta(hours=1)
        attach(db, attempt, "cs_1", p_expires_at=shorter)
        assert (db.session(session_id)["expires_at"], stored(db, attempt)["expires_at"]) == (first_expiry, shorter)
        attach(db, attempt, "cs_1", p_expires_at=longer)
        assert (db.session(session_id)["expires_at"], stored(db, attempt)["expires_at"]) == (longer, longer)

    def test_a_page_that_is_about_to_end_is_not_shown_again(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = opened(db, session_id)
        attach(db, attempt, "cs_1", p_expires_at=datetime.now(UTC) + timedelta(seconds=30))
        assert opened(db, session_id)["number"] != attempt["number"]

    def test_the_page_of_an_older_attempt_does_not_become_the_sessions_page(self, db: Database) -> None:
        session_id = db.new_session()
        slow = opened(db, session_id)
        current = opened(db, session_id, p_provider="paystack")
        attach(db, current, "ps_1")
        attach(db, slow, "cs_1")
        assert db.session(session_id)["checkout_url"] == "https://pay.test/ps_1"
        assert stored(db, slow)["provider_session_id"] == "cs_1"

    def test_a_page_that_opens_after_the_session_was_cancelled_is_kept_with_its_attempt(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = opened(db, session_id)
        db.as_service().rpc("cancel_checkout_session", p_session_id=session_id)
        attach(db, attempt, "cs_1")
        assert stored(db, attempt)["provider_session_id"] == "cs_1"
        assert db.session(session_id)["checkout_url"] is None


class TestAbandon:
    def abandon(self, db: Database, attempt: Row) -> None:
        db.as_service().rpc("abandon_checkout_attempt", p_attempt=attempt["number"], p_error_code="timeout")

    def test_the_next_try_gets_a_new_reference_and_the_session_stays_pending(self, db: Database) -> None:
        session_id = db.new_session()
        first = opened(db, session_id)
        self.abandon(db, first)
        assert (stored(db, first)["status"], stored(db, first)["error_code"]) == ("failed", "timeout")
        assert db.session(session_id)["status"] == "pending"
        assert opened(db, session_id)["reference"] != first["reference"]

    def test_a_page_that_opened_after_all_is_the_sessions_page_again(self, db: Database, session_id: uuid.UUID) -> None:
        attempt = opened(db, session_id)
        self.abandon(db, attempt)
        attach(db, attempt, "cs_late")
        assert stored(db, attempt)["status"] == "open"
        again = opened(db, session_id)
        assert (again["number"], again["checkout_url"]) == (attempt["number"], "https://pay.test/cs_late")

    def test_a_page_that_ended_is_not_opened_again_by_a_late_attach(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, "failed")
        attach(db, attempt, attempt["provider_session_id"])
        assert stored(db, attempt)["status"] == "failed"

    def test_an_attempt_that_has_a_page_is_left_alone(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id)
        self.abandon(db, attempt)
        assert stored(db, attempt)["status"] == "open"
        assert opened(db, session_id)["number"] == attempt["number"]

    def test_money_for_an_abandoned_attempt_is_honoured(self, db: Database) -> None:
        user = db.new_user()
        attempt = opened(db, db.new_session(user))
        self.abandon(db, attempt)
        assert db.apply(attempt)["fulfilment_status"] == "fulfilled"
        assert db.balance(user) == 100


class TestFind:
    def test_an_attempt_is_found_by_any_of_its_names(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id)
        for name in (
            {"p_session_id": session_id},
            {"p_reference": attempt["reference"]},
            {"p_provider": "stripe", "p_provider_session_id": attempt["provider_session_id"]},
        ):
            found = db.as_service().rpc("find_checkout_attempt", **name)
            assert (found["session_id"], found["number"]) == (str(session_id), attempt["number"])

    def test_an_older_attempt_is_found_by_its_own_reference(self, db: Database) -> None:
        session_id = db.new_session()
        older = db.open_attempt(session_id)
        opened(db, session_id, p_provider="paystack")
        found = db.as_service().rpc("find_checkout_attempt", p_reference=older["reference"])
        assert (found["number"], found["provider"]) == (older["number"], "stripe")

    def test_a_session_without_an_attempt_is_found_too(self, db: Database) -> None:
        session_id = db.new_session()
        found = db.as_service().rpc("find_checkout_attempt", p_session_id=session_id)
        assert (found["session_id"], found["number"], found["provider"]) == (str(session_id), None, "stripe")

    def test_the_owner_is_served_and_a_stranger_refused(self, db: Database) -> None:
        owner, stranger = db.new_user(), db.new_user()
        attempt = db.open_attempt(db.new_session(owner))
        service = db.as_service()
        assert service.rpc("find_checkout_attempt", p_reference=attempt["reference"], p_user_id=owner)
        with refused("PT403", "not_your_session"):
            service.rpc("find_checkout_attempt", p_reference=attempt["reference"], p_user_id=stranger)

    def test_names_that_do_not_belong_together_find_nothing(self, db: Database) -> None:
        attempt, other = db.open_attempt(db.new_session()), db.new_session()
        for names in (
            {},
            {"p_reference": "0" * 32},
            {"p_reference": attempt["reference"], "p_session_id": other},
            {"p_reference": attempt["reference"], "p_provider": "paystack"},
            {"p_provider": "paystack", "p_provider_session_id": attempt["provider_session_id"]},
        ):
            with refused("PT404", "session_not_found"):
                db.as_service().rpc("find_checkout_attempt", **names)
