"""Sessions whose coupon takes the whole price: completed at once, and once however often the buyer clicks."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.sql.test_coupons import FUNCTION, buy, new_coupon, place, quote, uses
from tests.support.database import Database, Row, call, refused
from tests.support.races import all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT = 30  # seconds until a waiter is given up; nothing here takes long
DONE = ("completed", "fulfilled", None)


@pytest.fixture
def gift(db: Database) -> str:
    """A coupon that takes everything off."""
    return new_coupon(db, "GIFT", percent_off=100)


def get(db: Database, user: uuid.UUID, **arguments: Any) -> uuid.UUID:
    """The buyer asks for the gift."""
    return buy(db, user, **({"p_coupon": "GIFT"} | arguments))


def given(db: Database, user: uuid.UUID) -> tuple[int, list[int]]:
    """What the user has got, after a look that no guarantee is broken: the credits, and each grant of them."""
    assert db.as_service().rpc("check_payment_invariants") == []
    return db.balance(user), db.entries(user)


def deliver(db: Database, page: Row) -> Any:
    """The provider says that the page was paid, and says it again when it is asked to."""
    for _ in range(20):
        answer = answer_or_reason(db.apply, page)
        if answer != "try_again":
            break
    return answer


def documents(db: Database, session_id: uuid.UUID) -> list[Row]:
    return db.sql(
        "select kind, original_amount, discount_amount, amount, provider, provider_payment_id"
        " from public.payment_invoices where session_id = %s",
        session_id,
    )


class TestCompletion:
    @pytest.mark.parametrize("terms", [{"percent_off": 100}, {"off": {"USD": 500}}, {"off": {"USD": 501}}], ids=str)
    def test_it_is_completed_at_once_without_a_provider_and_without_money(
        self, db: Database, user: uuid.UUID, terms: Row
    ) -> None:
        new_coupon(db, "GIFT", **terms)
        assert quote(db, user, p_coupon="GIFT")["amount"] == 0
        session_id = get(db, user, p_email="buyer@shop.test")
        row = db.session(session_id)
        assert db.state(session_id) == DONE
        assert (row["provider"], row["original_amount"], row["discount_amount"], row["amount"]) == ("none", 500, 500, 0)
        assert (row["provider_payment_id"], row["checkout_url"], row["attempts"]) == (None, None, 0)
        assert row["completed_at"] == row["created_at"]
        assert row["fulfilment"]["balance"] == 100
        assert db.captures(session_id) == []
        assert given(db, user) == (100, [100])

    def test_the_coupon_is_redeemed_the_invoice_is_of_nothing_and_the_buyer_gets_a_receipt(
        self, db: Database, user: uuid.UUID, gift: str
    ) -> None:
        session_id = get(db, user, p_email="buyer@shop.test")
        assert place(db, session_id) == ("confirmed", True, False)
        assert uses(db, gift) == {"confirmed": 1}
        (invoice,) = documents(db, session_id)
        assert invoice == {
            "kind": "invoice", "original_amount": 500, "discount_amount": 500, "amount": 0,
            "provider": "none", "provider_payment_id": None,
        }  # fmt: skip
        (receipt,) = db.sql("select kind, session_id, email, payload from payments.notifications")
        assert (receipt["kind"], receipt["session_id"], receipt["email"]) == ("receipt", session_id, "buyer@shop.test")
        assert receipt["payload"]["amount"] == 0
        (event,) = db.events(session_id)
        assert (event["from_status"], event["to_status"], event["source"]) == ("pending", "completed", "client")

    def test_the_service_may_give_it_to_a_user(self, db: Database, user: uuid.UUID, gift: str) -> None:
        assert db.state(db.new_session(user, p_coupon=gift)) == DONE
        assert given(db, user) == (100, [100])

    @pytest.mark.parametrize("provider", [None, "stripe", "paystack"])
    def test_no_page_can_be_opened_for_it(self, db: Database, user: uuid.UUID, gift: str, provider: str | None) -> None:
        session_id = get(db, user)
        before = db.everything()
        with refused("PT409", "session_not_pending"):
            db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider=provider)
        assert db.everything() == before
        assert uses(db, gift) == {"confirmed": 1}

    @pytest.mark.parametrize("provider", ["none", "barter", None])
    def test_the_provider_that_the_buyer_names_must_exist_all_the_same(
        self, db: Database, user: uuid.UUID, gift: str, provider: str | None
    ) -> None:
        with refused("PT422", "provider_unknown"):
            get(db, user, p_provider=provider)
        assert uses(db, gift) == {}

    def test_a_price_that_is_almost_nothing_is_not_free(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "GIFT", off={"USD": 499})
        row = db.session(get(db, user))
        assert (row["status"], row["provider"], row["amount"]) == ("pending", "stripe", 1)
        assert given(db, user) == (0, [])

    def test_a_gift_that_cannot_be_given_is_kept_for_review_and_given_by_a_retry(
        self, db: Database, user: uuid.UUID, gift: str
    ) -> None:
        db.break_fulfilment("credits")
        session_id = get(db, user)
        assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
        assert get(db, user) == session_id
        db.mend_fulfilment("credits")
        db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert db.state(session_id) == DONE
        assert given(db, user) == (100, [100])
        assert uses(db, gift) == {"confirmed": 1}

    def test_there_is_nothing_to_take_when_the_gifts_are_gone(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "GIFT", percent_off=100, max_redemptions=1)
        get(db, db.new_user())
        before = db.everything()
        with refused("PT409", "coupon_exhausted"):
            get(db, user)
        assert db.everything() == before


class TestTheOpenSessionBeside:
    def test_an_open_paid_session_of_the_purchase_is_superseded(self, db: Database, user: uuid.UUID, gift: str) -> None:
        new_coupon(db, "HALF")
        paid = buy(db, user, p_coupon="HALF")
        free = get(db, user)
        assert free != paid
        assert db.trail(paid) == [("pending", "cancelled", "superseded")]
        assert place(db, paid)[0] == "released"
        assert db.state(free) == DONE
        assert given(db, user) == (100, [100])
        assert uses(db, gift) == {"confirmed": 1}

    def test_money_that_still_comes_for_it_is_honoured_and_flagged(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, gift: str
    ) -> None:
        free = buy(db, user, p_coupon=gift)
        db.apply(attempt)
        assert db.state(session_id) == ("completed", "fulfilled", "paid_twice")
        assert db.state(free) == DONE
        assert given(db, user) == (200, [100, 100])

    def test_one_that_is_being_paid_is_given_as_it_is(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, gift: str
    ) -> None:
        db.apply(attempt, "processing")
        assert buy(db, user, p_coupon=gift) == session_id
        assert uses(db, gift) == {}
        assert given(db, user) == (0, [])

    def test_a_click_and_the_payment_of_the_open_session_at_once_are_both_honoured(
        self, db: Database, gift: str
    ) -> None:
        for _ in range(15):
            user = db.new_user()
            page = db.open_attempt(db.new_session(user))
            clicks_and_news: list[Callable[[], Any]] = [
                partial(buy, db, user, p_coupon=gift),
                partial(deliver, db, page),
            ]
            all_at_once(clicks_and_news)
            assert given(db, user) == (200, [100, 100])
        assert uses(db, gift) == {"confirmed": 15}

    def test_a_click_and_late_money_for_the_purchase_at_once_are_both_honoured(self, db: Database, gift: str) -> None:
        for _ in range(15):
            user = db.new_user()
            late = db.open_attempt(db.new_session(user))
            db.close(late["session_id"])
            unpaid = db.new_session(user)
            clicks_and_news: list[Callable[[], Any]] = [
                partial(buy, db, user, p_coupon=gift),
                partial(deliver, db, late),
            ]
            all_at_once(clicks_and_news)
            assert db.session(unpaid)["status"] == "cancelled"
            assert given(db, user) == (200, [100, 100])
        assert uses(db, gift) == {"confirmed": 15}

    @pytest.mark.parametrize("subject", [None, "a"])
    def test_sessions_of_other_purchases_stay_open(
        self, db: Database, user: uuid.UUID, gift: str, subject: str | None
    ) -> None:
        others = [buy(db, user, "credits_500", p_subject=subject), buy(db, user, p_subject="b")]
        others.append(db.new_session(p_subject=subject))
        buy(db, user, p_coupon=gift, p_subject=subject)
        assert [db.session(other)["status"] for other in others] == ["pending"] * 3


class TestDoubleClick:
    """One place in all and one per user: whoever would give twice is refused by the coupon."""

    @pytest.fixture(autouse=True)
    def gift(self, db: Database) -> None:
        new_coupon(db, "GIFT", percent_off=100, max_redemptions_per_user=1)

    @pytest.mark.parametrize("key", [{}, {"p_idempotency_key": "k"}], ids=["without key", "with key"])
    def test_a_second_click_gets_the_same_session(self, db: Database, user: uuid.UUID, key: Row) -> None:
        session_id = get(db, user, **key)
        before = db.everything()
        for code in ("GIFT", "GIFT") if key else ("GIFT", "gift"):
            assert get(db, user, p_coupon=code, **key) == session_id
        assert db.everything() == before
        assert given(db, user) == (100, [100])

    @pytest.mark.parametrize("key", [{}, {"p_idempotency_key": "k"}], ids=["without key", "with key"])
    def test_two_clicks_at_once_get_one_session_every_time(self, db: Database, key: Row) -> None:
        for _ in range(25):
            user = db.new_user()
            assert len(set(all_at_once([partial(get, db, user, **key)] * 2))) == 1
            assert db.entries(user) == [100]
        assert uses(db, "GIFT") == {"confirmed": 25}
        assert db.value("select count(*) from public.payment_checkout_sessions") == 25

    @pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside an open session"])
    def test_16_clicks_at_once_get_one_session(self, db: Database, user: uuid.UUID, beside: bool) -> None:
        if beside:
            buy(db, user)
        assert len(set(all_at_once([partial(get, db, user)] * 16))) == 1
        assert given(db, user) == (100, [100])
        assert uses(db, "GIFT") == {"confirmed": 1}

    @pytest.mark.parametrize("key", [{}, {"p_idempotency_key": "k"}], ids=["without key", "with key"])
    def test_the_second_waits_for_the_first_and_takes_over_when_it_dies(
        self, db: Database, user: uuid.UUID, key: Row
    ) -> None:
        with db.as_user(user).request() as first:
            died = call(first, FUNCTION, p_plan="credits_100", p_coupon="GIFT", **key)
            second = start_and_see_it_wait(db, partial(get, db, user, **key))
            first.rollback()
        assert second.result(WAIT) != died
        assert db.state(second.result()) == DONE
        assert given(db, user) == (100, [100])

    def test_a_second_click_after_the_last_gift_is_given_still_gets_the_session(
        self, db: Database, user: uuid.UUID
    ) -> None:
        new_coupon(db, "LAST", percent_off=100, max_redemptions=1)
        assert len(set(all_at_once([partial(buy, db, user, p_coupon="LAST")] * 8))) == 1
        assert uses(db, "LAST") == {"confirmed": 1}

    def test_the_click_of_another_user_is_not_taken_for_it(self, db: Database) -> None:
        users = [db.new_user() for _ in range(8)]
        assert len(set(all_at_once([partial(get, db, user) for user in users]))) == 8
        assert [db.balance(user) for user in users] == [100] * 8

    @pytest.mark.parametrize("second", [{"p_subject": "b"}, {"p_plan": "credits_500"}], ids=str)
    def test_another_purchase_is_not_taken_for_it(self, db: Database, user: uuid.UUID, second: Row) -> None:
        get(db, user)
        with refused("PT409", "coupon_exhausted"):
            db.as_user(user).rpc(FUNCTION, **({"p_plan": "credits_100", "p_coupon": "GIFT"} | second))
        assert given(db, user) == (100, [100])

    def test_another_coupon_is_another_purchase(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "MORE", percent_off=100)
        assert get(db, user) != get(db, user, p_coupon="MORE")
        assert given(db, user) == (200, [100, 100])

    def test_long_afterwards_a_click_is_a_new_purchase(self, db: Database, user: uuid.UUID) -> None:
        get(db, user)
        db.sql("update public.payment_checkout_sessions set created_at = now() - interval '25 hours'")
        with refused("PT409", "coupon_exhausted"):
            get(db, user)

    def test_who_may_no_longer_buy_still_gets_the_session_of_the_first_click(
        self, db: Database, user: uuid.UUID
    ) -> None:
        db.new_product("saving", "contribution", USD=100)
        terms = {"capacity": 3, "cycle": "1 month", "contribution_product": "saving", "join_product": "seat"}
        db.new_product("seat", "group_join", USD=100)
        made = db.new_session(plan=db.new_product("circle", "group_create", terms, USD=100), p_coupon="GIFT")
        group = str(db.session(made)["fulfilment"]["group_id"])
        ask = partial(buy, db, user, "seat", p_subject=group, p_coupon="GIFT")
        first = ask()
        assert db.state(first) == DONE
        assert answer_or_reason(ask) == first


class TestAnotherKey:
    def test_it_is_another_purchase(self, db: Database, user: uuid.UUID, gift: str) -> None:
        sessions = {get(db, user, p_idempotency_key=key) for key in ("a", "b", "a")}
        assert len(sessions) == 2
        assert given(db, user) == (200, [100, 100])
        assert uses(db, gift) == {"confirmed": 2}

    def test_two_keys_at_once_are_two_purchases(self, db: Database, gift: str) -> None:
        for _ in range(10):
            user = db.new_user()
            clicks = [partial(get, db, user, p_idempotency_key=key) for key in "abab"]
            a, b, again_a, again_b = all_at_once(clicks)
            assert (a, b) == (again_a, again_b)
            assert a != b
            assert db.entries(user) == [100, 100]
        assert uses(db, gift) == {"confirmed": 20}

    def test_the_cap_per_user_holds_for_it(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "GIFT", percent_off=100, max_redemptions_per_user=1)
        first = get(db, user, p_idempotency_key="a")
        with refused("PT409", "coupon_exhausted"):
            get(db, user, p_idempotency_key="b")
        assert get(db, user, p_idempotency_key="a") == first
        assert given(db, user) == (100, [100])

    def test_one_key_for_a_gift_and_for_something_else_is_a_conflict(
        self, db: Database, user: uuid.UUID, gift: str
    ) -> None:
        get(db, user, p_idempotency_key="k")
        for other in ({"p_coupon": None}, {"p_subject": "b"}):
            with refused("PT409", "idempotency_conflict"):
                get(db, user, p_idempotency_key="k", **other)
        assert uses(db, gift) == {"confirmed": 1}
