"""Invoices, credit notes and corrections: one per fact, numbered without gaps, never changed."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

WAIT = 30  # seconds until a waiter is given up; nothing here takes long


def buy(db: Database, user: uuid.UUID | None = None, plan: str = "credits_100", **arguments: Any) -> uuid.UUID:
    """A paid session."""
    session_id = db.new_session(user, plan, **arguments)
    db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")
    return session_id


def refund(
    db: Database, session_id: uuid.UUID, amount: int, name: str | None = None, status: str = "succeeded"
) -> None:
    db.as_service().rpc(
        "refund_checkout_session",
        p_session_id=session_id, p_provider_refund_id=name or f"re_{session_id}", p_amount=amount, p_status=status,
    )  # fmt: skip


def number_waiting(db: Database, **arguments: int) -> int:
    count: int = db.as_service().rpc("number_payment_invoices", **arguments)
    return count


def documents(db: Database, session_id: uuid.UUID | None = None) -> list[tuple[str, int, str, int]]:
    """Series, number, kind and amount, when no guarantee is broken."""
    assert db.as_service().rpc("check_payment_invariants") == []
    rows = db.sql(
        "select series, number, kind, amount from public.payment_invoices where session_id = coalesce(%s, session_id)"
        " order by issued_at, series desc, number",
        session_id,
    )
    return [(row["series"], row["number"], row["kind"], row["amount"]) for row in rows]


def numbers(db: Database, series: str = "INV") -> list[int]:
    rows = db.sql("select number from public.payment_invoices where series = %s order by number", series)
    return [row["number"] for row in rows]


def waiting(db: Database) -> list[tuple[str, int]]:
    """Documents without a number: kind and amount."""
    rows = db.sql("select document from payments.unnumbered_invoices order by id")
    return [(row["document"]["kind"], row["document"]["amount"]) for row in rows]


class TestOnePerPurchase:
    def test_it_states_the_purchase_as_it_was(self, db: Database, user: uuid.UUID) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('FIFTH', 20)")
        session_id = db.new_session(user, p_email="buyer@example.test", p_coupon="FIFTH")
        paid_at = datetime.now(UTC) - timedelta(hours=1)
        db.complete(session_id, p_provider_payment_id="pi_1", p_paid_at=paid_at)
        db.sql("update public.payment_products set name = 'Renamed' where id = 'credits_100'")
        (row,) = db.sql("select * from public.payment_invoices")
        session = db.session(session_id)
        assert row == {
            "series": "INV", "year": session["completed_at"].astimezone(UTC).year, "number": 1, "kind": "invoice",
            "session_id": session_id, "user_id": user, "email": "buyer@example.test", "product_id": "credits_100",
            "product_name": "100 credits", "currency": "USD", "original_amount": 500, "discount_amount": 100,
            "amount": 400, "provider": "stripe", "provider_payment_id": "pi_1", "paid_at": session["completed_at"],
            "issued_at": session["completed_at"],
        }  # fmt: skip

    def test_numbers_follow_each_other(self, db: Database) -> None:
        bought = [buy(db) for _ in range(5)]
        rows = db.sql("select number, session_id from public.payment_invoices order by number")
        assert [(row["number"], row["session_id"]) for row in rows] == list(enumerate(bought, start=1))

    def test_a_free_purchase_has_one(self, db: Database) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('FREE', 100)")
        session_id = db.new_session(p_coupon="FREE")
        assert documents(db, session_id) == [("INV", 1, "invoice", 0)]
        (row,) = db.sql("select provider, provider_payment_id, original_amount from public.payment_invoices")
        assert row == {"provider": "none", "provider_payment_id": None, "original_amount": 500}

    def test_a_purchase_that_could_not_be_delivered_has_one(self, db: Database) -> None:
        db.break_fulfilment("credits")
        session_id = buy(db)
        db.mend_fulfilment("credits")
        db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert documents(db) == [("INV", 1, "invoice", 500)]

    def test_late_money_has_one(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        db.close(session_id)
        db.apply(attempt)
        assert documents(db, session_id) == [("INV", 1, "invoice", 500)]

    @pytest.mark.parametrize("status", ["pending", "processing", "failed", "expired", "cancelled"])
    def test_what_is_not_paid_has_none(self, db: Database, attempt: Row, status: str) -> None:
        db.apply(attempt, status)
        assert documents(db) == []

    @pytest.mark.parametrize("wrong", [{"amount": 1}, {"currency": "NGN"}], ids=str)
    def test_the_wrong_money_has_none(self, db: Database, attempt: Row, wrong: Row) -> None:
        db.apply(attempt, **wrong)
        assert documents(db) == []

    def test_replays_and_second_payments_make_no_second_one(self, db: Database, attempt: Row) -> None:
        for payment in ("pi_1", "pi_1", "pi_2"):
            db.apply(attempt, provider_payment_id=payment)
        db.complete(attempt["session_id"], p_provider_payment_id="pi_1")
        assert documents(db) == [("INV", 1, "invoice", 500)]

    def test_an_overpayment_is_invoiced_with_the_price(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, amount=620)
        assert documents(db) == [("INV", 1, "invoice", 500)]

    def test_the_series_are_settings(self, db: Database) -> None:
        buy(db)
        db.sql("update payments.settings set invoice_series = 'SHOP-A', credit_note_series = 'BACK'")
        refund(db, buy(db), 500)
        assert documents(db) == [
            ("INV", 1, "invoice", 500), ("SHOP-A", 1, "invoice", 500), ("BACK", 1, "credit_note", -500),
        ]  # fmt: skip


class TestCreditNotes:
    def test_each_refund_has_one_in_a_series_of_its_own(self, db: Database) -> None:
        session_id = buy(db)
        buy(db)
        for number, amount in enumerate((100, 150, 250)):
            refund(db, session_id, amount, f"re_{number}")
        assert documents(db, session_id) == [
            ("INV", 1, "invoice", 500), ("CN", 1, "credit_note", -100), ("CN", 2, "credit_note", -150),
            ("CN", 3, "credit_note", -250),
        ]  # fmt: skip
        assert numbers(db) == [1, 2]

    def test_replays_make_no_second_one(self, db: Database) -> None:
        session_id = buy(db)
        for _ in range(3):
            refund(db, session_id, 100)
        assert numbers(db, "CN") == [1]

    @pytest.mark.parametrize(("amount", "status"), [(100, "pending"), (100, "failed"), (501, "succeeded")])
    def test_what_did_not_go_back_has_none(self, db: Database, amount: int, status: str) -> None:
        refund(db, buy(db), amount, status=status)
        assert documents(db) == [("INV", 1, "invoice", 500)]

    def test_the_return_of_a_second_payment_has_none(self, db: Database, attempt: Row) -> None:
        for payment in ("pi_1", "pi_2"):
            db.apply(attempt, provider_payment_id=payment)
        back = {"provider_refund_id": "re_1", "amount": 500}
        db.as_service().rpc(
            "apply_payment_outcome",
            p_outcome={"provider": "stripe", "provider_payment_id": "pi_2", "refunds": [back]},
        )
        assert documents(db) == [("INV", 1, "invoice", 500)]

    def test_of_an_overpaid_purchase_it_states_what_went_back_of_the_price(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, amount=620)
        refund(db, uuid.UUID(attempt["session_id"]), 220)
        assert documents(db)[1:] == [("CN", 1, "credit_note", -100)]

    def test_a_refund_that_fails_later_is_corrected(self, db: Database) -> None:
        session_id = buy(db)
        refund(db, session_id, 200, "re_1")
        refund(db, session_id, 300, "re_2")
        refund(db, session_id, 200, "re_1", "failed")
        assert documents(db, session_id) == [
            ("INV", 1, "invoice", 500), ("CN", 1, "credit_note", -200), ("CN", 2, "credit_note", -300),
            ("CN", 3, "correction", 200),
        ]  # fmt: skip

    def test_a_payment_whose_refund_overtook_it_has_both(self, db: Database, attempt: Row) -> None:
        back = {"provider_refund_id": "re_1", "amount": 500}
        db.as_service().rpc(
            "apply_payment_outcome",
            p_outcome={"provider": "stripe", "reference": attempt["reference"], "refunds": [back]},
        )
        assert documents(db) == []
        db.apply(attempt)
        assert sorted(documents(db)) == [("CN", 1, "credit_note", -500), ("INV", 1, "invoice", 500)]

    def test_the_documents_add_up_to_what_was_kept_at_every_step(self, db: Database) -> None:
        session_id = buy(db)
        steps = [(50, "a", "pending"), (100, "b", "succeeded"), (50, "a", "succeeded"), (100, "b", "failed"),
                 (450, "c", "succeeded"), (50, "a", "failed"), (450, "c", "failed")]  # fmt: skip
        for step in steps:
            refund(db, session_id, *step)
            row = db.session(session_id)
            assert sum(amount for *_, amount in documents(db, session_id)) == row["amount"] - row["refunded_amount"]
        assert documents(db, session_id)[-1] == ("CN", 6, "correction", 450)


class TestYears:
    YEAR = "extract(year from now() at time zone 'UTC')::int"

    def test_each_year_begins_with_1(self, db: Database) -> None:
        db.sql(f"insert into payments.invoice_counters values ('INV', {self.YEAR} - 1, 7), ('INV', {self.YEAR} + 1, 9)")
        for _ in range(2):
            buy(db)
        assert [(kind, number) for kind, number, *_ in documents(db)] == [("INV", 1), ("INV", 2)]
        counted = db.sql("select last_number from payments.invoice_counters order by year")
        assert [row["last_number"] for row in counted] == [7, 2, 9]

    @pytest.mark.parametrize("timezone", ["Pacific/Kiritimati", "Etc/GMT+12"])
    def test_the_year_is_that_of_utc_wherever_the_server_is(self, db: Database, timezone: str) -> None:
        db.sql(
            "create function payments.note(p_at timestamptz) returns boolean language plpgsql as"
            " $$ declare v payments.settings; d public.payment_invoices; begin"
            " d.series := 'INV'; d.kind := 'invoice'; d.session_id := gen_random_uuid(); d.user_id := d.session_id;"
            " d.product_id := 'x'; d.product_name := 'x'; d.currency := 'USD'; d.original_amount := 1;"
            " d.discount_amount := 0; d.amount := 1; d.provider := 'stripe'; d.paid_at := p_at;"
            " return payments.number_document(d, p_at); end $$"
        )
        with db.as_owner().request() as dba:
            dba.execute("select set_config('timezone', %s, true)", (timezone,))
            dba.execute("select payments.note('2030-12-31 23:59:59+00'), payments.note('2031-01-01 00:00:00+00')")
        rows = db.sql("select year, number from public.payment_invoices order by year")
        assert [(row["year"], row["number"]) for row in rows] == [(2030, 1), (2031, 1)]

    def test_a_document_that_waited_over_the_new_year_gets_a_number_of_the_year_in_which_it_is_issued(
        self, db: Database
    ) -> None:
        first = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(first))
            buy(db)
        db.sql(
            f"""update payments.unnumbered_invoices set created_at = now() - interval '1 year',
            document = document || jsonb_build_object('year', {self.YEAR} - 1, 'number', 99)"""
        )
        assert number_waiting(db) == 1
        rows = db.sql(f"select number, year = {self.YEAR} as this_year from public.payment_invoices order by number")
        assert [(row["number"], row["this_year"]) for row in rows] == [(1, True), (2, True)]


class TestNoGaps:
    def test_a_purchase_that_is_rolled_back_leaves_none(self, db: Database) -> None:
        buy(db)
        attempt = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(attempt))
            assert request.execute("select max(number) as n from payment_invoices").fetchone() == {"n": 2}
            request.rollback()
        db.apply(attempt)
        assert [number for _, number, *_ in documents(db)] == [1, 2]

    def test_the_first_purchase_of_all_that_is_rolled_back_leaves_none(self, db: Database) -> None:
        attempt = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(attempt))
            request.rollback()
        buy(db)
        assert documents(db) == [("INV", 1, "invoice", 500)]

    def test_a_handler_that_fails_after_the_number_was_thought_of_leaves_none(self, db: Database) -> None:
        buy(db)
        db.break_fulfilment("credits", "40P01")
        attempt = db.open_attempt(db.new_session())
        with refused("40P01"):
            db.apply(attempt)
        db.mend_fulfilment("credits")
        db.apply(attempt)
        assert [number for _, number, *_ in documents(db)] == [1, 2]

    @pytest.mark.parametrize("before", [0, 1], ids=["first of the year", "later"])
    def test_a_purchase_never_waits_for_another_and_gets_its_number_afterwards(self, db: Database, before: int) -> None:
        for _ in range(before):
            buy(db)
        slow = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(slow))
            quick = buy(db)
            assert db.state(quick) == ("completed", "fulfilled", None)
            assert documents(db, quick) == []
            assert waiting(db) == [("invoice", 500)]
        assert numbers(db) == list(range(1, before + 2))
        assert number_waiting(db) == 1
        assert documents(db, quick) == [("INV", before + 2, "invoice", 500)]
        assert (waiting(db), number_waiting(db)) == ([], 0)

    @pytest.mark.parametrize("before", [0, 1], ids=["first of the year", "later"])
    def test_the_number_of_a_purchase_that_dies_goes_to_the_one_that_did_not_wait(
        self, db: Database, before: int
    ) -> None:
        for _ in range(before):
            buy(db)
        doomed = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(doomed))
            quick = buy(db)
            request.rollback()
        assert number_waiting(db) == 1
        assert documents(db, quick) == [("INV", before + 1, "invoice", 500)]

    def test_refunds_do_not_wait_either(self, db: Database) -> None:
        one, other, third = (buy(db) for _ in range(3))
        with db.as_service().request() as request:
            call(request, "refund_checkout_session", p_session_id=one, p_provider_refund_id="re_1", p_amount=100)
            refund(db, other, 200)
            refund(db, other, 200, status="failed")
            buy(db)  # invoices have a counter of their own
            assert waiting(db) == [("credit_note", -200), ("correction", 200)]
        refund(db, third, 300)
        assert number_waiting(db) == 2
        assert [entry for entry in documents(db) if entry[0] == "CN"] == [
            ("CN", 1, "credit_note", -100), ("CN", 2, "credit_note", -300),
            ("CN", 3, "credit_note", -200), ("CN", 4, "correction", 200),
        ]  # fmt: skip
        assert numbers(db) == [1, 2, 3, 4]

    def test_those_that_wait_are_numbered_in_the_order_of_the_purchases_and_as_many_as_asked(
        self, db: Database
    ) -> None:
        slow = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(slow))
            bought = [buy(db) for _ in range(5)]
        assert [number_waiting(db, p_limit=limit) for limit in (0, 2, 1000)] == [0, 2, 3]
        rows = db.sql("select session_id from public.payment_invoices order by number")
        assert [row["session_id"] for row in rows] == [uuid.UUID(slow["session_id"]), *bought]

    def test_numbering_waits_for_the_purchase_that_holds_the_counter(self, db: Database) -> None:
        buy(db)
        slow = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(slow))
            buy(db)
            numbering = start_and_see_it_wait(db, partial(number_waiting, db))
        assert numbering.result(WAIT) == 1
        assert numbers(db) == [1, 2, 3]

    def test_a_purchase_does_not_wait_for_the_numbering(self, db: Database) -> None:
        buy(db)
        with db.as_service().request() as request:
            assert call(request, "number_payment_invoices") == 0
            quick = buy(db)
            assert documents(db, quick) == []
        assert number_waiting(db) == 1
        assert numbers(db) == [1, 2]

    @pytest.mark.parametrize("before", [0, 1], ids=["first of the year", "later"])
    def test_two_numberings_at_once_number_each_document_once(self, db: Database, before: int) -> None:
        for _ in range(before):
            buy(db)
        slow = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(slow))
            for _ in range(6):
                buy(db)
            request.rollback()
        counts = all_at_once([partial(number_waiting, db)] * 4)
        assert sum(counts) + number_waiting(db) == 6
        assert numbers(db) == list(range(1, before + 7))
        assert waiting(db) == []

    def test_a_numbering_that_dies_leaves_its_documents_to_the_next(self, db: Database) -> None:
        slow = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(slow))
            for _ in range(2):
                buy(db)
        with db.as_service().request() as request:
            assert call(request, "number_payment_invoices") == 2
            request.rollback()
        assert (len(waiting(db)), number_waiting(db)) == (2, 2)
        assert numbers(db) == [1, 2, 3]

    def test_8_buyers_of_20_purchases_each_at_once_have_160_numbers(self, db: Database) -> None:
        """With refunds between them, failures of the server, and a numbering now and then."""

        def buy_a_lot(buyer: int) -> None:
            user = db.new_user()
            for turn in range(20):
                session_id = buy(db, user, p_subject=str(turn))
                if turn % 4 == buyer % 4:
                    refund(db, session_id, 100)
                if turn % 5 == 0:
                    attempt = db.open_attempt(db.new_session(user, "credits_500", p_subject=str(turn)))
                    with db.as_service().request() as request:
                        call(request, "apply_payment_outcome", p_outcome=outcome(attempt))
                        request.rollback()
                if turn % 7 == buyer:
                    number_waiting(db)

        jobs: list[Callable[[], None]] = [partial(buy_a_lot, buyer) for buyer in range(8)]
        all_at_once(jobs)
        number_waiting(db)
        assert waiting(db) == []
        assert numbers(db) == list(range(1, 161))
        assert numbers(db, "CN") == list(range(1, 41))
        assert Counter(kind for _, _, kind, _ in documents(db)) == {"invoice": 160, "credit_note": 40}

    def test_32_first_purchases_of_a_year_at_once_have_32_numbers(self, db: Database) -> None:
        attempts = [db.open_attempt(db.new_session()) for _ in range(32)]
        all_at_once([partial(db.apply, attempt) for attempt in attempts])
        number_waiting(db)
        assert numbers(db) == list(range(1, 33))
        assert [kind for _, _, kind, _ in documents(db)] == ["invoice"] * 32


class TestForEver:
    STATEMENTS = (
        "update public.payment_invoices set amount = 1",
        "update public.payment_invoices set email = null where false",
        "delete from public.payment_invoices",
        "truncate public.payment_invoices",
        "insert into public.payment_invoices select * from public.payment_invoices",
    )

    @pytest.mark.parametrize("statement", STATEMENTS[:4])
    def test_not_even_the_owner_changes_one(self, db: Database, statement: str) -> None:
        session_id = buy(db)
        before = documents(db, session_id)
        with refused("PT409", "append_only"):
            db.as_owner().sql(statement)
        assert documents(db, session_id) == before

    @pytest.mark.parametrize("statement", STATEMENTS)
    def test_users_and_the_service_write_none(self, db: Database, user: uuid.UUID, statement: str) -> None:
        buy(db, user)
        for caller in (db.as_user(user), db.as_service(), db.as_anon()):
            with refused("42501"):
                caller.sql(statement)
        assert documents(db) == [("INV", 1, "invoice", 500)]

    @pytest.mark.parametrize("table", ["invoice_counters", "unnumbered_invoices"])
    def test_nobody_but_the_owner_sees_how_they_are_numbered(self, db: Database, user: uuid.UUID, table: str) -> None:
        for caller in (db.as_user(user), db.as_service(), db.as_anon()):
            for statement in (f"select from payments.{table}", f"delete from payments.{table}"):
                with refused("42501"):
                    caller.sql(statement)

    def test_a_user_sees_the_own_ones_only(self, db: Database, user: uuid.UUID) -> None:
        refund(db, buy(db, user), 100)
        buy(db)
        look = "select kind from public.payment_invoices order by issued_at"
        assert [row["kind"] for row in db.as_user(user).sql(look)] == ["invoice", "credit_note"]
        assert db.as_user(uuid.uuid4()).sql(look) == []
        assert len(db.as_service().sql(look)) == 3
        with refused("42501"):
            db.as_anon().sql(look)

    def test_only_the_service_numbers(self, db: Database, user: uuid.UUID) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            with refused("42501"):
                caller.rpc("number_payment_invoices")

    def test_they_outlive_session_user_and_product(self, db: Database, user: uuid.UUID) -> None:
        plan = db.new_product("poster", USD=300)
        refund(db, buy(db, user, plan), 100)
        db.sql("delete from auth.users where id = %s", user)
        db.sql("delete from public.payment_products where id = %s", plan)
        assert db.value("select count(*) from public.payment_checkout_sessions") == 0
        assert documents(db) == [("INV", 1, "invoice", 300), ("CN", 1, "credit_note", -100)]

    def test_one_that_waits_for_its_number_outlives_them_too(self, db: Database, user: uuid.UUID) -> None:
        slow = db.open_attempt(db.new_session())
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(slow))
            session_id = buy(db, user)
        db.sql("delete from auth.users where id = %s", user)
        assert number_waiting(db) == 1
        assert documents(db, session_id) == [("INV", 2, "invoice", 500)]

    def test_they_are_issued_in_the_order_of_their_numbers_when_nobody_competes(self, db: Database) -> None:
        for _ in range(4):
            buy(db)
        rows = db.sql("select issued_at from public.payment_invoices order by number")
        assert all(one["issued_at"] < other["issued_at"] for one, other in itertools.pairwise(rows))
