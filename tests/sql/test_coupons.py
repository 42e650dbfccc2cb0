"""Coupons: what they take off, where they can be used, and what becomes of their places."""

from __future__ import annotations

import uuid
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from tests.support.database import Database, Row, refused

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTION = "get_or_create_checkout_session"
LARGEST = 2**63 - 1


def new_coupon(db: Database, code: str, *, off: Row | None = None, minimum: Row | None = None, **columns: Any) -> str:
    """A coupon of half the price, or of fixed amounts off per currency, or as the columns say."""
    columns = {"id": code, "percent_off": None if off else 50} | columns
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    values = sql.SQL(", ").join(sql.Placeholder() * len(columns))
    with db.as_owner().request() as owner:
        owner.execute(
            sql.SQL("insert into payments.coupons ({}) values ({})").format(names, values), [*columns.values()]
        )
        for currency in {**(off or {}), **(minimum or {})}:
            owner.execute(
                "insert into payments.coupon_currencies values (%s, %s, %s, %s)",
                [code, currency, (off or {}).get(currency), (minimum or {}).get(currency)],
            )
    return code


def buy(db: Database, user: uuid.UUID, plan: str = "credits_100", **arguments: Any) -> uuid.UUID:
    """What the buyer's app does."""
    session_id = db.as_user(user).rpc(FUNCTION, p_plan=plan, **arguments)
    assert isinstance(session_id, uuid.UUID)
    return session_id


def quote(db: Database, user: uuid.UUID, plan: str = "credits_100", **arguments: Any) -> Row:
    answer: Row = db.as_user(user).rpc("quote_checkout", p_plan=plan, **arguments)
    return answer


def offered(db: Database, plan: str, **arguments: Any) -> tuple[int, int, int, str]:
    """The full price, what is taken off, what is left, and the code: as quoted, and as then agreed."""
    user = db.new_user()
    quoted = quote(db, user, plan, **arguments)
    agreed = db.session(buy(db, user, plan, **arguments))
    names = ("original_amount", "discount_amount", "amount")
    assert [quoted[name] for name in names] == [agreed[name] for name in names]
    assert quoted["coupon"] == agreed["coupon_id"]
    return quoted["original_amount"], quoted["discount_amount"], quoted["amount"], quoted["coupon"]


def place(db: Database, session_id: uuid.UUID) -> tuple[str, bool, bool]:
    """What became of a session's use of its coupon: status, whether it holds a place, whether it was paid late."""
    (row,) = db.sql(
        "select status, holds_place, paid_late from payments.coupon_redemptions where session_id = %s", session_id
    )
    return row["status"], row["holds_place"], row["paid_late"]


def uses(db: Database, code: str) -> Counter[str]:
    """How a coupon has been used, when no guarantee is broken."""
    assert db.as_service().rpc("check_payment_invariants") == []
    rows = db.sql("select status from payments.coupon_redemptions where coupon_id = %s", code)
    return Counter(row["status"] for row in rows)


@pytest.fixture
def one(db: Database) -> str:
    """A coupon of half the price with one place."""
    return new_coupon(db, "ONE", max_redemptions=1)


@pytest.fixture
def held(db: Database, user: uuid.UUID, one: str) -> uuid.UUID:
    """The user's open session that holds the only place."""
    return buy(db, user, p_coupon=one)


class TestDiscount:
    @pytest.mark.parametrize(
        ("price", "percent", "off"),
        [(500, 20, 100), (999, 33, 329), (199, 50, 99), (99, 1, 0), (1, 99, 0), (101, 100, 101)],
    )
    def test_a_percentage_is_taken_off_rounded_down_to_whole_minor_units(
        self, db: Database, price: int, percent: int, off: int
    ) -> None:
        new_coupon(db, "SPRING", percent_off=percent)
        plan = db.new_product("thing", JPY=price)
        assert offered(db, plan, p_coupon="SPRING") == (price, off, price - off, "SPRING")

    @pytest.mark.parametrize("percent", [1, 33, 50, 67, 99, 100])
    @pytest.mark.parametrize("price", [LARGEST, 10**18 - 1, 2 * 10**16 + 51])
    def test_huge_prices_neither_overflow_nor_lose_a_unit(self, db: Database, price: int, percent: int) -> None:
        new_coupon(db, "SPRING", percent_off=percent)
        off = price * percent // 100
        assert offered(db, db.new_product("yacht", USD=price), p_coupon="SPRING") == (
            price, off, price - off, "SPRING",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("currency", "price", "off"), [("USD", 500, 150), ("NGN", 750000, 100000), ("ILS", 1900, 1900)]
    )
    def test_a_fixed_amount_is_that_of_the_currency_and_never_more_than_the_price(
        self, db: Database, currency: str, price: int, off: int
    ) -> None:
        new_coupon(db, "FIXED", off={"USD": 150, "NGN": 100000, "ILS": LARGEST})
        assert offered(db, "credits_100", p_coupon="FIXED", p_currency=currency) == (price, off, price - off, "FIXED")

    def test_the_code_may_be_typed_in_any_case(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "SPRING-26")
        sessions = {buy(db, user, p_coupon=code) for code in ("spring-26", "SPRING-26", "Spring-26")}
        assert len(sessions) == 1
        assert uses(db, "SPRING-26") == {"reserved": 1}
        assert quote(db, user, p_coupon="sPrInG-26")["coupon"] == "SPRING-26"

    def test_the_price_that_the_client_showed_is_compared_with_the_discounted_one(
        self, db: Database, user: uuid.UUID
    ) -> None:
        new_coupon(db, "SPRING")
        with refused("PT422", "price_mismatch"):
            buy(db, user, p_coupon="SPRING", p_price=Decimal("5.00"))
        assert db.session(buy(db, user, p_coupon="SPRING", p_price=Decimal("2.5")))["amount"] == 250

    def test_the_page_asks_for_the_discounted_amount_and_that_is_what_pays(self, db: Database, user: uuid.UUID) -> None:
        attempt = db.open_attempt(buy(db, user, p_coupon=new_coupon(db, "SPRING")))
        assert attempt["amount"] == 250
        db.apply(attempt)
        assert db.state(attempt["session_id"]) == ("completed", "fulfilled", None)
        assert db.balance(user) == 100
        assert uses(db, "SPRING") == {"confirmed": 1}


class TestWhereItCanBeUsed:
    @pytest.mark.parametrize(
        ("terms", "reason", "words"),
        [
            pytest.param({"code": "OTHER"}, "coupon_unknown", "There is no coupon 'spring'", id="no such coupon"),
            pytest.param(
                {"valid_from": "2020-01-01", "valid_until": "2020-02-01"}, "coupon_expired", "has expired", id="over"
            ),
            pytest.param({"valid_from": "2999-01-01"}, "coupon_not_applicable", "valid from 2999-01-01", id="early"),
            pytest.param(
                {"product_ids": ["credits_500", "pro_month"]}, "coupon_not_applicable", "it is not for credits_100",
                id="another product",
            ),
            pytest.param(
                {"minimum": {"USD": 501}}, "coupon_not_applicable", "at least 501 minor units", id="price too small"
            ),
            pytest.param(
                {"off": {"USD": 150}, "minimum": {"USD": 501}}, "coupon_not_applicable", "at least 501 minor units",
                id="price too small for a fixed amount",
            ),
            pytest.param({"off": {"NGN": 100}}, "coupon_not_applicable", "no discount in USD", id="another currency"),
            pytest.param(
                {"off": {"NGN": 100}, "minimum": {"USD": 100}}, "coupon_not_applicable", "no discount in USD",
                id="a minimum only",
            ),
        ],
    )  # fmt: skip
    def test_anywhere_else_the_quote_and_the_purchase_are_refused_and_nothing_is_written(
        self, db: Database, user: uuid.UUID, terms: Row, reason: str, words: str
    ) -> None:
        arguments: Row = {"code": "SPRING"} | terms
        new_coupon(db, **arguments)
        before = db.everything()
        for ask in (quote, buy):
            with refused("PT422", reason) as error:
                ask(db, user, p_coupon="spring")
            assert words in str(error.value)
        assert db.everything() == before

    @pytest.mark.parametrize("code", ["", " SPRING", "SPRING ", "SPRI%", "💥" * 5000], ids=ascii)
    def test_nothing_but_the_code_itself_is_understood(self, db: Database, user: uuid.UUID, code: str) -> None:
        new_coupon(db, "SPRING")
        for ask in (quote, buy):
            with refused("PT422", "coupon_unknown"):
                ask(db, user, p_coupon=code)

    @pytest.mark.parametrize(
        "terms",
        [
            {"valid_from": "2020-01-01", "valid_until": "2999-01-01"},
            {"product_ids": ["credits_500", "credits_100"]},
            {"minimum": {"USD": 500}},
            {"minimum": {"NGN": LARGEST}},
            {"off": {"USD": 250}, "minimum": {"USD": 500, "NGN": LARGEST}},
        ],
        ids=str,
    )
    def test_within_its_limits_it_takes_its_discount_off(self, db: Database, terms: Row) -> None:
        new_coupon(db, "SPRING", **terms)
        assert offered(db, "credits_100", p_coupon="SPRING") == (500, 250, 250, "SPRING")

    def test_an_agreed_price_stays_agreed_when_the_coupon_expires(self, db: Database, user: uuid.UUID) -> None:
        attempt = db.open_attempt(buy(db, user, p_coupon=new_coupon(db, "SPRING")))
        db.sql("update payments.coupons set valid_from = '2020-01-01', valid_until = '2020-02-01'")
        with refused("PT422", "coupon_expired"):
            buy(db, user, p_coupon="SPRING")
        assert db.session(attempt["session_id"])["status"] == "pending"
        db.apply(attempt)
        assert db.state(attempt["session_id"]) == ("completed", "fulfilled", None)
        assert uses(db, "SPRING") == {"confirmed": 1}

    @pytest.mark.parametrize(
        "change",
        [
            "places_taken = 2", "places_taken = -1", "max_redemptions = 0", "max_redemptions_per_user = 0",
            "percent_off = 0", "percent_off = 101", "id = 'one'", "id = ''", "product_ids = '{}'",
            "product_ids = '{credits_100,NULL}'", "valid_until = valid_from",
        ],
    )  # fmt: skip
    def test_the_database_itself_refuses_a_count_above_the_cap_and_terms_without_a_meaning(
        self, db: Database, one: str, change: str
    ) -> None:
        with refused("23514"):
            db.sql(f"update payments.coupons set {change} where id = %s", one)

    @pytest.mark.parametrize("table", ["coupons", "coupon_currencies", "coupon_redemptions"])
    def test_nobody_can_read_the_coupons_through_the_api(self, db: Database, user: uuid.UUID, table: str) -> None:
        for caller in (db.as_user(user), db.as_anon(), db.as_service()):
            with refused("42501"):
                caller.sql(f"select * from payments.{table}")


class TestPlace:
    def test_it_is_reserved_with_the_session_and_confirmed_by_the_money(
        self, db: Database, one: str, held: uuid.UUID
    ) -> None:
        assert place(db, held) == ("reserved", True, False)
        attempt = db.open_attempt(held)
        db.apply(attempt, "processing")
        assert place(db, held) == ("reserved", True, False)
        for _ in range(2):
            db.apply(attempt)
            assert place(db, held) == ("confirmed", True, False)
        assert uses(db, one) == {"confirmed": 1}

    def test_asking_again_gives_the_same_session_and_writes_nothing(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID
    ) -> None:
        for caller in (db.as_user(user), db.as_service()):
            assert caller.rpc_that_only_reads(FUNCTION, p_plan="credits_100", p_user_id=user, p_coupon=one) == held

    def test_who_holds_a_place_can_still_ask_for_the_price_and_everybody_else_is_told_that_it_is_used_up(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID
    ) -> None:
        stranger = db.new_user()
        before = db.everything()
        assert quote(db, user, p_coupon=one)["amount"] == 250
        for ask in (quote, buy):
            with refused("PT409", "coupon_exhausted"):
                ask(db, stranger, p_coupon=one)
        assert db.everything() == before
        db.apply(db.open_attempt(held))
        for who in (user, stranger):
            with refused("PT409", "coupon_exhausted"):
                quote(db, who, p_coupon=one)

    def test_one_user_is_held_to_the_cap_per_user_and_others_are_not(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "TWICE", max_redemptions_per_user=2)
        paid = buy(db, user, p_coupon="TWICE")
        db.apply(db.open_attempt(paid))
        buy(db, user, p_coupon="TWICE", p_subject="a")
        before = db.everything()
        with refused("PT409", "coupon_exhausted"):
            buy(db, user, p_coupon="TWICE", p_subject="b")
        assert db.everything() == before
        assert quote(db, db.new_user(), p_coupon="TWICE")["amount"] == 250
        assert uses(db, "TWICE") == {"confirmed": 1, "reserved": 1}

    def test_the_quote_knows_of_the_cap_per_user(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "ONCE", max_redemptions_per_user=1)
        db.apply(db.open_attempt(buy(db, user, p_coupon="ONCE")))
        with refused("PT409", "coupon_exhausted"):
            quote(db, user, p_coupon="ONCE")


def supersede(**changes: Any) -> Callable[[Database, uuid.UUID, uuid.UUID], None]:
    def ask(db: Database, user: uuid.UUID, _: uuid.UUID) -> None:
        buy(db, user, **changes)

    return ask


def told(status: str, **changes: Any) -> Callable[[Database, uuid.UUID, uuid.UUID], None]:
    def apply(db: Database, _: uuid.UUID, session_id: uuid.UUID) -> None:
        db.apply(db.open_attempt(session_id), status, **changes)

    return apply


def expire_by_timer(db: Database, _: uuid.UUID, session_id: uuid.UUID) -> None:
    db.lapse(session_id)
    assert db.as_service().rpc("expire_old_checkout_sessions") == 1


def expire_on_the_way(db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
    db.lapse(session_id)
    buy(db, user)


def cancel(db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
    db.as_user(user).rpc("cancel_checkout_session", p_session_id=session_id)


def fail(db: Database, _: uuid.UUID, session_id: uuid.UUID) -> None:
    db.as_service().rpc("fail_checkout_session", p_session_id=session_id, p_error_code="declined")


ENDINGS = {
    "expiry by the timer": (expire_by_timer, "expired"),
    "expiry on the way": (expire_on_the_way, "expired"),
    "cancel": (cancel, "cancelled"),
    "failure": (fail, "failed"),
    "declined": (told("failed"), "failed"),
    "page expired": (told("expired"), "expired"),
    "page cancelled": (told("cancelled"), "cancelled"),
    "too little money": (told("completed", amount=249), "failed"),
    "other money": (told("completed", currency="EUR"), "failed"),
    "another coupon": (supersede(p_coupon="OTHER"), "cancelled"),
    "no coupon": (supersede(), "cancelled"),
    "another provider and no coupon": (supersede(p_provider="paystack"), "cancelled"),
}


class TestRelease:
    @pytest.mark.parametrize("name", ENDINGS)
    def test_an_unpaid_end_gives_the_place_to_the_next_buyer(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID, name: str
    ) -> None:
        end, status = ENDINGS[name]
        new_coupon(db, "OTHER", percent_off=10)
        end(db, user, held)
        assert db.session(held)["status"] == status
        assert place(db, held)[0] == "released"
        next_buyer = db.new_user()
        assert quote(db, next_buyer, p_coupon=one)["amount"] == 250
        assert place(db, buy(db, next_buyer, p_coupon=one)) == ("reserved", True, False)
        assert place(db, held) == ("released", False, False)
        assert uses(db, one) == {"released": 1, "reserved": 1}

    @pytest.mark.parametrize("name", ENDINGS)
    def test_an_unpaid_end_does_not_count_for_the_cap_per_user(self, db: Database, user: uuid.UUID, name: str) -> None:
        new_coupon(db, "ONE", max_redemptions_per_user=1)
        new_coupon(db, "OTHER", percent_off=10)
        ENDINGS[name][0](db, user, buy(db, user, p_coupon="ONE"))
        assert quote(db, user, p_coupon="ONE")["amount"] == 250
        buy(db, user, p_coupon="ONE", p_subject="again")
        assert uses(db, "ONE") == {"released": 1, "reserved": 1}

    def test_a_lapsed_session_asked_by_its_key_gives_its_place_up(
        self, db: Database, user: uuid.UUID, one: str
    ) -> None:
        session_id = buy(db, user, p_coupon=one, p_idempotency_key="k")
        db.lapse(session_id)
        assert buy(db, user, p_coupon=one, p_idempotency_key="k") == session_id
        assert place(db, session_id)[0] == "released"
        buy(db, db.new_user(), p_coupon=one)

    @pytest.mark.parametrize("change", [{"p_provider": "paystack"}, {"p_currency": "NGN"}], ids=str)
    def test_a_buyer_who_changes_the_way_to_pay_keeps_the_last_place(
        self, db: Database, user: uuid.UUID, change: Row
    ) -> None:
        new_coupon(db, "LAST", max_redemptions=1, max_redemptions_per_user=1)
        old = buy(db, user, p_coupon="LAST")
        new = buy(db, user, p_coupon="LAST", **change)
        assert (place(db, old), place(db, new)) == (("released", False, False), ("reserved", True, False))
        assert db.trail(old) == [("pending", "cancelled", "superseded")]
        assert uses(db, "LAST") == {"released": 1, "reserved": 1}

    def test_a_call_that_finds_the_other_coupon_used_up_leaves_the_old_session_and_its_place_as_they_were(
        self, db: Database, user: uuid.UUID, held: uuid.UUID
    ) -> None:
        new_coupon(db, "FULL", max_redemptions=1)
        buy(db, db.new_user(), p_coupon="FULL")
        before = db.everything()
        with refused("PT409", "coupon_exhausted"):
            buy(db, user, p_coupon="FULL")
        assert db.everything() == before
        assert buy(db, user, p_coupon="ONE") == held

    def test_the_place_of_a_user_who_was_deleted_goes_to_the_next_buyer(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID
    ) -> None:
        db.sql("delete from auth.users where id = %s", user)
        buy(db, db.new_user(), p_coupon=one)
        assert place(db, held) == ("released", False, False)
        assert uses(db, one) == {"released": 1, "reserved": 1}

    def test_the_quote_counts_the_place_of_a_user_who_was_deleted_as_free(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID
    ) -> None:
        assert place(db, held)[0] == "reserved"
        db.sql("delete from auth.users where id = %s", user)
        assert quote(db, db.new_user(), p_coupon=one)["amount"] == 250

    def test_a_deleted_user_who_had_paid_has_used_the_place(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID
    ) -> None:
        db.apply(db.open_attempt(held))
        db.sql("delete from auth.users where id = %s", user)
        with refused("PT409", "coupon_exhausted"):
            buy(db, db.new_user(), p_coupon=one)
        assert uses(db, one) == {"confirmed": 1}


class TestRefund:
    @staticmethod
    def refund(db: Database, session_id: uuid.UUID, amount: int = 250, status: str = "succeeded") -> None:
        db.as_service().rpc(
            "refund_checkout_session",
            p_session_id=session_id, p_provider_refund_id="re_1", p_amount=amount, p_status=status,
        )  # fmt: skip

    @pytest.fixture
    def paid(self, db: Database, held: uuid.UUID) -> uuid.UUID:
        """The user's paid session that has used the only place."""
        db.apply(db.open_attempt(held))
        return held

    def test_a_full_refund_returns_the_place_if_the_settings_say_so(
        self, db: Database, one: str, paid: uuid.UUID
    ) -> None:
        db.sql("update payments.settings set coupon_returns_on_refund = true")
        self.refund(db, paid)
        assert place(db, paid)[0] == "released"
        buy(db, db.new_user(), p_coupon=one)
        assert uses(db, one) == {"released": 1, "reserved": 1}

    @pytest.mark.parametrize(
        ("returns", "refunded"),
        [(False, {}), (True, {"amount": 249}), (True, {"status": "pending"}), (True, {"status": "failed"})],
        ids=["settings", "partial", "pending", "failed"],
    )
    def test_any_other_refund_leaves_it_used_up(
        self, db: Database, one: str, paid: uuid.UUID, returns: bool, refunded: Row
    ) -> None:
        db.sql("update payments.settings set coupon_returns_on_refund = %s", returns)
        self.refund(db, paid, **refunded)
        with refused("PT409", "coupon_exhausted"):
            buy(db, db.new_user(), p_coupon=one)
        assert uses(db, one) == {"confirmed": 1}

    @pytest.mark.parametrize("taken", [False, True])
    def test_a_refund_that_fails_later_takes_the_place_again_if_it_is_still_there(
        self, db: Database, one: str, paid: uuid.UUID, taken: bool
    ) -> None:
        db.sql("update payments.settings set coupon_returns_on_refund = true")
        self.refund(db, paid)
        if taken:
            buy(db, db.new_user(), p_coupon=one)
        self.refund(db, paid, status="failed")
        assert db.session(paid)["status"] == "completed"
        assert place(db, paid)[:2] == ("confirmed", not taken)
        assert uses(db, one) == Counter(["confirmed"] + ["reserved"] * taken)
