"""What a refund takes back from the buyer, and what a refund that fails later gives back."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from math import floor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, refused


def buy(db: Database, user: uuid.UUID, plan: str) -> uuid.UUID:
    """A paid session; each is a purchase of its own."""
    session_id = db.new_session(user, plan, p_subject=str(uuid.uuid4()))
    db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")
    return session_id


def refund(db: Database, session_id: uuid.UUID, amount: int, name: str | None = None, status: str = "succeeded") -> Row:
    answer: Row = db.as_service().rpc(
        "refund_checkout_session",
        p_session_id=session_id, p_provider_refund_id=name or f"re_{session_id}", p_amount=amount, p_status=status,
    )  # fmt: skip
    return answer


def spend(db: Database, user: uuid.UUID, amount: int) -> None:
    db.as_service().rpc(
        "spend_credits", p_user_id=user, p_amount=amount, p_reason="x", p_idempotency_key=str(uuid.uuid4())
    )


def healthy(db: Database) -> bool:
    broken = db.as_service().rpc("check_payment_invariants")
    assert broken == []
    return True


def reversal(db: Database, session_id: uuid.UUID) -> Row:
    """What the session's fulfilment says about its reversal."""
    said: Row = db.session(session_id)["fulfilment"]["reversal"]
    return said


def ledger(db: Database, user: uuid.UUID) -> tuple[int, list[int]]:
    entries = db.entries(user)
    assert db.balance(user) == sum(entries)
    assert healthy(db)
    return db.balance(user), entries


class TestCreditsInProportion:
    @pytest.mark.parametrize(
        ("price", "given"),
        [(7, 10), (10, 7), (6, 3), (12, 18), (3, 100), (20, 3), (8, 4), (1, 1), (9, 1), (2, 1), (13, 10**9)],
    )
    def test_refunds_of_one_unit_each_take_the_exact_share_and_failures_give_it_back(
        self, db: Database, user: uuid.UUID, price: int, given: int
    ) -> None:
        session_id = buy(db, user, db.new_product("bag", "credits", {"credits": given}, USD=price))
        balances = [db.balance(user)]
        for number in range(price):
            refund(db, session_id, 1, f"re_{number}")
            balances.append(db.balance(user))
        left = [given - floor(Fraction(given * back, price) + Fraction(1, 2)) for back in range(price + 1)]
        assert balances == left
        for number in range(price):
            refund(db, session_id, 1, f"re_{number}", "failed")
            balances.append(db.balance(user))
        assert balances[price:] == left[::-1]
        assert ledger(db, user)[0] == given

    @pytest.mark.parametrize(
        "case",
        [
            # price, credits, refunded, taken back
            (600, 300, 5, 3), (600, 300, 1, 1), (500, 100, 2, 0), (500, 100, 3, 1), (500, 100, 498, 100),
            (500, 100, 497, 99), (10**15, 10**9, 10**15 - 1, 10**9), (3 * 10**15, 1, 10**15, 0),
        ],
    )  # fmt: skip
    def test_half_a_credit_is_taken_and_less_is_not(
        self, db: Database, user: uuid.UUID, case: tuple[int, int, int, int]
    ) -> None:
        price, given, amount, taken = case
        session_id = buy(db, user, db.new_product("bag", "credits", {"credits": given}, USD=price))
        refund(db, session_id, amount)
        assert ledger(db, user)[0] == given - taken
        assert reversal(db, session_id)["credits"] == taken
        assert reversal(db, session_id)["shortfall"] == 0

    def test_the_fulfilment_says_what_was_given_and_what_was_taken(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        answer = refund(db, session_id, 125)
        assert answer["fulfilment"] == {
            "kind": "credits", "credits": 100, "balance": 100,
            "reversal": {"share": 0.25, "credits": 25, "shortfall": 0},
        }  # fmt: skip
        refund(db, session_id, 125, status="failed")
        assert reversal(db, session_id) == {"share": 0, "credits": 0, "shortfall": 0}

    def test_entries_name_the_session_and_never_the_same_source_twice(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        for amount, name, status in ((100, "a", "succeeded"), (50, "b", "succeeded"), (100, "a", "failed")):
            refund(db, session_id, amount, name, status)
        rows = db.as_user(user).sql("select reason, source, amount from public.payment_credit_entries order by id")
        assert rows[1:] == [
            {"reason": "clawback", "source": f"{session_id}:1", "amount": -20},
            {"reason": "clawback", "source": f"{session_id}:2", "amount": -10},
            {"reason": "reinstatement", "source": f"{session_id}:3", "amount": 20},
        ]

    def test_the_terms_of_the_purchase_count_not_those_of_today(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        db.sql("""update public.payment_products set terms = '{"credits": 7}' where id = 'credits_100'""")
        refund(db, session_id, 250)
        assert ledger(db, user) == (50, [100, -50])

    def test_a_discounted_purchase_goes_back_in_proportion_to_what_was_paid(
        self, db: Database, user: uuid.UUID
    ) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('HALF', 50)")
        session_id = db.new_session(user, p_coupon="HALF")
        db.complete(session_id, p_provider_payment_id="pi_1")
        refund(db, session_id, 125)
        assert ledger(db, user) == (50, [100, -50])
        refund(db, session_id, 125, "re_2")
        assert db.session(session_id)["status"] == "refunded"
        assert ledger(db, user)[0] == 0


class TestCreditsThatAreSpent:
    def test_what_is_missing_is_recorded_and_the_balance_is_not_negative(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        spend(db, user, 70)
        refund(db, session_id, 500)
        assert ledger(db, user) == (0, [100, -70, -30])
        assert reversal(db, session_id) == {"share": 1, "credits": 30, "shortfall": 70}
        assert db.session(session_id)["fulfilment_status"] == "reversed"

    def test_when_nothing_is_left_there_is_no_entry(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        spend(db, user, 100)
        refund(db, session_id, 500)
        assert ledger(db, user) == (0, [100, -100])
        assert reversal(db, session_id) == {"share": 1, "credits": 0, "shortfall": 100}

    def test_a_later_purchase_does_not_pay_for_it(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        spend(db, user, 100)
        refund(db, session_id, 500)
        later = buy(db, user, "credits_500")
        refund(db, session_id, 500)
        assert ledger(db, user)[0] == 500
        refund(db, later, 1000)
        assert ledger(db, user) == (250, [100, -100, 500, -250])

    def test_credits_of_another_purchase_do_pay_for_it_while_they_are_there(
        self, db: Database, user: uuid.UUID
    ) -> None:
        session_id = buy(db, user, "credits_100")
        buy(db, user, "credits_500")
        spend(db, user, 550)
        refund(db, session_id, 500)
        assert ledger(db, user) == (0, [100, 500, -550, -50])

    def test_a_second_refund_takes_its_own_share_only(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        spend(db, user, 100)
        refund(db, session_id, 200, "re_1")
        buy(db, user, "credits_500")
        refund(db, session_id, 300, "re_2")
        assert ledger(db, user)[0] == 440
        assert reversal(db, session_id) == {"share": 1, "credits": 60, "shortfall": 40}

    @pytest.mark.parametrize(("spent", "back"), [(0, 100), (30, 70), (100, 0)])
    def test_a_refund_that_fails_gives_back_only_what_it_took(
        self, db: Database, user: uuid.UUID, spent: int, back: int
    ) -> None:
        session_id = buy(db, user, "credits_100")
        if spent:
            spend(db, user, spent)
        refund(db, session_id, 500)
        refund(db, session_id, 500, status="failed")
        assert ledger(db, user)[0] == back
        assert reversal(db, session_id) == {"share": 0, "credits": 0, "shortfall": 0}
        assert db.state(session_id) == ("completed", "fulfilled", None)

    def test_of_two_refunds_one_that_fails_first_shrinks_the_shortfall(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        spend(db, user, 80)
        refund(db, session_id, 250, "re_1")
        refund(db, session_id, 250, "re_2")
        assert reversal(db, session_id) == {"share": 1, "credits": 20, "shortfall": 80}
        refund(db, session_id, 250, "re_2", "failed")
        assert reversal(db, session_id) == {"share": 0.5, "credits": 20, "shortfall": 30}
        assert ledger(db, user)[0] == 0
        refund(db, session_id, 250, "re_1", "failed")
        assert ledger(db, user)[0] == 20

    def test_what_was_given_back_can_be_spent_and_refunded_again(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        refund(db, session_id, 500, "re_1")
        refund(db, session_id, 500, "re_1", "failed")
        spend(db, user, 40)
        refund(db, session_id, 500, "re_2")
        assert ledger(db, user) == (0, [100, -100, 100, -40, -60])
        assert reversal(db, session_id)["shortfall"] == 40


PLANS = {"small": (5, 16), "odd": (24, 7), "big": (64, 1000)}  # price and credits


@dataclass
class Purchase:
    """What the rules say about one purchase of credits."""

    session_id: uuid.UUID
    price: int
    given: int
    refunds: dict[str, int] = field(default_factory=dict)
    owed: int = 0
    taken: int = 0

    def settle(self, balance: int) -> int:
        """Take or give back what the sum of the refunds says; the balance afterwards."""
        owed = floor(Fraction(self.given * sum(self.refunds.values()), self.price) + Fraction(1, 2))
        change = min(owed - self.owed, balance) if owed > self.owed else min(self.taken, owed) - self.taken
        self.owed, self.taken = owed, self.taken + change
        return balance - change


@dataclass
class Customer:
    """A user of the database beside what the rules say about the user; ``chance`` chooses among what is possible."""

    db: Database
    user: uuid.UUID
    bought: list[Purchase] = field(default_factory=list)
    balance: int = 0

    def buy(self, chance: int) -> None:
        plan = sorted(PLANS)[chance % len(PLANS)]
        self.bought.append(Purchase(buy(self.db, self.user, plan), *PLANS[plan]))
        self.balance += self.bought[-1].given

    def refund(self, chance: int) -> None:
        rest = [one for one in self.bought if sum(one.refunds.values()) < one.price]
        if rest:
            one = rest[chance % len(rest)]
            name = f"re_{uuid.uuid4()}"
            one.refunds[name] = chance % (one.price - sum(one.refunds.values())) + 1
            refund(self.db, one.session_id, one.refunds[name], name)
            self.balance = one.settle(self.balance)

    def fail(self, chance: int) -> None:
        succeeded = [(one, name) for one in self.bought for name in one.refunds]
        if succeeded:
            one, name = succeeded[chance % len(succeeded)]
            refund(self.db, one.session_id, one.refunds.pop(name), name, "failed")
            self.balance = one.settle(self.balance)

    def spend(self, chance: int) -> None:
        if self.balance:
            amount = chance % self.balance + 1
            spend(self.db, self.user, amount)
            self.balance -= amount

    def is_as_the_rules_say(self) -> bool:
        recorded = {row["session_id"]: row for row in self.db.sql("select * from payments.credit_clawbacks")}
        for one in self.bought:
            row = recorded.get(one.session_id, {"owed": 0, "taken": 0})
            assert (row["owed"], row["taken"]) == (one.owed, one.taken)
        return ledger(self.db, self.user)[0] == self.balance


@settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from(["buy", "refund", "fail", "spend"]), st.integers(0, 9999)), max_size=40)
)
def test_any_purchases_refunds_failures_and_spendings_keep_to_the_rules(
    db: Database, steps: list[tuple[str, int]]
) -> None:
    db.sql("update payments.settings set create_limit = null")
    for plan, (price, given_credits) in PLANS.items():
        if not db.sql("select id from public.payment_products where id = %s", plan):
            db.new_product(plan, "credits", {"credits": given_credits}, USD=price)
    customer = Customer(db, db.new_user())
    customer.buy(0)
    for step, chance in steps:
        getattr(customer, step)(chance)
        assert db.balance(customer.user) == customer.balance
    assert customer.is_as_the_rules_say()


class TestSubscriptions:
    @pytest.fixture
    def month(self, db: Database) -> str:
        """A plan that costs 100 and lasts 30 days."""
        return db.new_product("month", "subscription", {"tier": "gold", "period": "30 days"}, USD=100)

    @staticmethod
    def pass_days(db: Database, days: int) -> None:
        """Let so many days go by for all subscriptions."""
        by = timedelta(days=days)
        db.sql("update public.payment_subscriptions set started_at = started_at - %s, ends_at = ends_at - %s", by, by)
        db.sql("update payments.subscription_periods set starts_at = starts_at - %s, ends_at = ends_at - %s", by, by)

    @staticmethod
    def ends_at(db: Database, user: uuid.UUID) -> datetime:
        (row,) = db.sql("select started_at, ends_at from public.payment_subscriptions where user_id = %s", user)
        assert row["started_at"] <= row["ends_at"]
        assert healthy(db)
        ends_at: datetime = row["ends_at"]
        return ends_at

    @staticmethod
    def period(db: Database, session_id: uuid.UUID) -> tuple[datetime, datetime]:
        (row,) = db.sql(
            "select starts_at, ends_at from payments.subscription_periods where session_id = %s", session_id
        )
        return row["starts_at"], row["ends_at"]

    @staticmethod
    def moment(db: Database, session_id: uuid.UUID) -> datetime:
        """When the session was last changed."""
        changed: datetime = db.session(session_id)["updated_at"]
        return changed

    @pytest.mark.parametrize("amount", [1, 50, 99])
    def test_a_partial_refund_keeps_it(self, db: Database, user: uuid.UUID, month: str, amount: int) -> None:
        session_id = buy(db, user, month)
        before = self.ends_at(db, user)
        refund(db, session_id, amount)
        assert self.ends_at(db, user) == before
        assert db.state(session_id) == ("partially_refunded", "fulfilled", None)
        assert reversal(db, session_id)["share"] == amount / 100

    @pytest.mark.parametrize("age", [0, 10, 29])
    @pytest.mark.parametrize("parts", [[100], [40, 60]], ids=["at once", "in two"])
    def test_a_full_refund_ends_what_is_left(
        self, db: Database, user: uuid.UUID, month: str, age: int, parts: list[int]
    ) -> None:
        session_id = buy(db, user, month)
        self.pass_days(db, age)
        for number, amount in enumerate(parts):
            refund(db, session_id, amount, f"re_{number}")
        assert self.ends_at(db, user) == self.moment(db, session_id)
        assert db.state(session_id) == ("refunded", "reversed", None)

    @pytest.mark.parametrize("timezone", ["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"])
    @pytest.mark.parametrize("months", [3, 6, 9])
    def test_a_full_refund_ends_it_now_wherever_the_clocks_change(
        self, db: Database, user: uuid.UUID, timezone: str, months: int
    ) -> None:
        plan = db.new_product("season", "subscription", {"tier": "gold", "period": f"{months} months"}, USD=100)
        session_id = buy(db, user, plan)
        with db.as_service().request() as request:
            request.execute("select set_config('timezone', %s, true)", (timezone,))
            request.execute(
                "select public.refund_checkout_session(%s, p_provider_refund_id => 're_1', p_amount => 100)",
                (session_id,),
            )
        assert db.state(session_id) == ("refunded", "reversed", None)
        assert self.ends_at(db, user) == self.moment(db, session_id)

    def test_a_used_up_period_shortens_nothing(self, db: Database, user: uuid.UUID, month: str) -> None:
        used, current = buy(db, user, month), buy(db, user, month)
        self.pass_days(db, 31)
        before = self.ends_at(db, user), self.period(db, current)
        refund(db, used, 100)
        assert (self.ends_at(db, user), self.period(db, current)) == before
        assert db.state(used) == ("refunded", "reversed", None)

    def test_a_used_up_period_that_was_the_last_changes_nothing_even_when_undone(
        self, db: Database, user: uuid.UUID, month: str
    ) -> None:
        session_id = buy(db, user, month)
        self.pass_days(db, 45)
        before = self.ends_at(db, user), self.period(db, session_id)
        for status in ("succeeded", "failed"):
            refund(db, session_id, 100, status=status)
            assert (self.ends_at(db, user), self.period(db, session_id)) == before

    def test_the_period_after_it_moves_forward_and_keeps_its_length(
        self, db: Database, user: uuid.UUID, month: str
    ) -> None:
        first, second, third = (buy(db, user, month) for _ in range(3))
        self.pass_days(db, 10)
        refund(db, first, 100)
        now = self.moment(db, first)
        assert self.period(db, first)[1] == now
        assert self.period(db, second) == (now, now + timedelta(days=30))
        assert self.period(db, third) == (now + timedelta(days=30), now + timedelta(days=60))
        assert self.ends_at(db, user) == now + timedelta(days=60)

    def test_one_in_the_middle_is_cut_out_and_the_earlier_one_stays(
        self, db: Database, user: uuid.UUID, month: str
    ) -> None:
        first, second, third = (buy(db, user, month) for _ in range(3))
        before = self.period(db, first)
        refund(db, second, 100)
        assert self.period(db, first) == before
        assert self.period(db, third) == (before[1], before[1] + timedelta(days=30))
        assert self.ends_at(db, user) == before[1] + timedelta(days=30)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)], ids=str)
    def test_when_all_are_refunded_it_ends_now_in_whatever_order(
        self, db: Database, user: uuid.UUID, month: str, order: tuple[int, ...]
    ) -> None:
        bought = [buy(db, user, month) for _ in range(3)]
        self.pass_days(db, 35)  # the first is used up, the second has begun
        for number in order:
            refund(db, bought[number], 100)
            self.ends_at(db, user)
        assert self.ends_at(db, user) == max(self.moment(db, one) for one in bought[1:])

    def test_the_current_one_of_a_subscription_that_is_not_the_first(
        self, db: Database, user: uuid.UUID, month: str
    ) -> None:
        """A month was used up long ago; another is bought, begun and refunded."""
        buy(db, user, month)
        self.pass_days(db, 100)
        second = buy(db, user, month)
        self.pass_days(db, 5)
        refund(db, second, 100)
        assert self.ends_at(db, user) == self.moment(db, second)

    def test_undone_the_time_is_given_back(self, db: Database, user: uuid.UUID, month: str) -> None:
        session_id = buy(db, user, month)
        self.pass_days(db, 10)
        before = self.ends_at(db, user)
        refund(db, session_id, 100)
        left = before - self.moment(db, session_id)
        refund(db, session_id, 100, status="failed")
        assert self.ends_at(db, user) == self.moment(db, session_id) + left
        assert db.state(session_id) == ("completed", "fulfilled", None)

    def test_undone_in_part_it_is_all_given_back(self, db: Database, user: uuid.UUID, month: str) -> None:
        session_id = buy(db, user, month)
        refund(db, session_id, 99, "re_1")
        refund(db, session_id, 1, "re_2")
        assert self.ends_at(db, user) == self.moment(db, session_id)
        refund(db, session_id, 1, "re_2", "failed")
        assert db.state(session_id) == ("partially_refunded", "fulfilled", None)
        assert self.ends_at(db, user) > self.moment(db, session_id) + timedelta(days=29)

    def test_undone_beside_other_periods_the_time_comes_at_the_end(
        self, db: Database, user: uuid.UUID, month: str
    ) -> None:
        first, second = buy(db, user, month), buy(db, user, month)
        before = self.ends_at(db, user)
        refund(db, first, 100)
        moved = self.period(db, second)
        refund(db, first, 100, status="failed")
        assert self.period(db, second) == moved
        assert self.period(db, first) == (moved[1], before)
        assert self.ends_at(db, user) == before

    def test_undone_and_refunded_again_it_ends(self, db: Database, user: uuid.UUID, month: str) -> None:
        session_id = buy(db, user, month)
        for name in ("re_1", "re_2"):
            refund(db, session_id, 100, name)
            assert self.ends_at(db, user) == self.moment(db, session_id)
            if name == "re_1":
                refund(db, session_id, 100, name, "failed")

    def test_another_tier_is_left_alone(self, db: Database, user: uuid.UUID, month: str) -> None:
        session_id = buy(db, user, month)
        buy(db, user, "pro_month")
        look = "select ends_at from public.payment_subscriptions where tier = 'pro'"
        before = db.value(look)
        refund(db, session_id, 100)
        assert db.value(look) == before
        assert healthy(db)

    def test_after_a_refund_buying_again_starts_now(self, db: Database, user: uuid.UUID, month: str) -> None:
        refund(db, buy(db, user, month), 100)
        again = buy(db, user, month)
        completed_at: datetime = db.session(again)["completed_at"]
        assert self.ends_at(db, user) == completed_at + timedelta(days=30)


class TestKindsWithoutReversal:
    @pytest.fixture
    def licence(self, db: Database) -> str:
        """A kind of product whose author wrote no reverse_function."""
        db.sql("insert into payments.fulfilment_handlers values ('licence', 'payments.fulfil_none')")
        return db.new_product("licence_1", "licence", USD=100)

    @pytest.mark.parametrize(("amount", "status"), [(100, "refunded"), (30, "partially_refunded")])
    def test_the_money_is_recorded_and_a_person_is_called(
        self, db: Database, user: uuid.UUID, licence: str, amount: int, status: str
    ) -> None:
        session_id = buy(db, user, licence)
        answer = refund(db, session_id, amount)
        assert (answer["status"], answer["refunded_amount"]) == (status, amount)
        assert db.state(session_id) == (status, "fulfilled", "reversal_failed")
        assert "reverse_function" in db.events(session_id)[-1]["detail"]
        assert db.value("select count(*) from payments.notifications where kind = 'review_alert'") == 1
        assert healthy(db)

    def test_once_it_has_one_the_retry_takes_it_back(self, db: Database, user: uuid.UUID, licence: str) -> None:
        session_id = buy(db, user, licence)
        refund(db, session_id, 100)
        db.sql(
            "update payments.fulfilment_handlers set reverse_function = 'payments.reverse_none' where kind = 'licence'"
        )
        answer = db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert (answer["fulfilment_status"], answer["review_reason"]) == ("reversed", None)
        assert healthy(db)


def reverse_with(db: Database, body: str) -> None:
    """Take credits back with this PL/pgSQL body."""
    db.sql(
        "create or replace function payments.reverse_for_test(p_session public.payment_checkout_sessions,"
        f" p_share numeric) returns jsonb language plpgsql as $$ {body} $$"
    )
    db.sql(
        "update payments.fulfilment_handlers set reverse_function = 'payments.reverse_for_test' where kind = 'credits'"
    )


def mend_reversal(db: Database) -> None:
    db.sql(
        "update payments.fulfilment_handlers set reverse_function = 'payments.reverse_credits' where kind = 'credits'"
    )


def retry(db: Database, session_id: uuid.UUID) -> Row:
    answer: Row = db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
    return answer


class TestReversalsThatFail:
    RAISE = "begin raise exception 'The shelf is full.' using errcode = '{}', detail = 'shelf_full'; end"

    @pytest.mark.parametrize("sqlstate", ["P0001", "PT409", "P0004", "23514"])
    def test_the_money_is_recorded_a_person_is_called_and_the_retry_takes_it_back(
        self, db: Database, user: uuid.UUID, sqlstate: str
    ) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(db, self.RAISE.format(sqlstate))
        refund(db, session_id, 500)
        assert db.state(session_id) == ("refunded", "fulfilled", "reversal_failed")
        assert "The shelf is full." in db.events(session_id)[-1]["detail"]
        assert db.session(session_id)["error_code"] is None  # nothing that the buyer must know
        assert ledger(db, user) == (100, [100])

        assert retry(db, session_id)["review_reason"] == "reversal_failed"
        assert db.state(session_id) == ("refunded", "fulfilled", "reversal_failed")
        mend_reversal(db)
        assert retry(db, session_id)["fulfilment_status"] == "reversed"
        assert db.state(session_id) == ("refunded", "reversed", None)
        assert ledger(db, user) == (0, [100, -100])
        with refused("PT409", "nothing_to_retry"):
            retry(db, session_id)

    def test_of_a_partial_refund_too(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(db, self.RAISE.format("P0001"))
        refund(db, session_id, 100)
        assert db.state(session_id) == ("partially_refunded", "fulfilled", "reversal_failed")
        mend_reversal(db)
        assert retry(db, session_id)["fulfilment"]["reversal"]["credits"] == 20
        assert db.state(session_id) == ("partially_refunded", "fulfilled", None)
        assert ledger(db, user) == (80, [100, -20])

    def test_what_the_handler_did_before_it_failed_is_undone(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(
            db,
            "begin perform payments.reverse_credits(p_session, p_share); raise exception 'Half way.'; end",
        )
        refund(db, session_id, 500)
        assert ledger(db, user) == (100, [100])
        assert db.value("select count(*) from payments.credit_clawbacks") == 0

    def test_passing_trouble_of_the_server_undoes_the_refund_so_that_it_can_be_told_again(
        self, db: Database, user: uuid.UUID
    ) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(db, self.RAISE.format("40P01"))
        before = db.everything()
        with refused("40P01"):
            refund(db, session_id, 500)
        assert db.everything() == before
        mend_reversal(db)
        assert refund(db, session_id, 500)["status"] == "refunded"

    def test_the_next_refund_takes_what_the_first_could_not(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(db, self.RAISE.format("P0001"))
        refund(db, session_id, 100, "re_1")
        mend_reversal(db)
        refund(db, session_id, 100, "re_2")
        assert db.state(session_id) == ("partially_refunded", "fulfilled", None)
        assert ledger(db, user) == (60, [100, -40])

    def test_a_refund_that_fails_before_its_reversal_worked_leaves_the_buyer_with_everything(
        self, db: Database, user: uuid.UUID
    ) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(db, self.RAISE.format("P0001"))
        refund(db, session_id, 500)
        mend_reversal(db)
        refund(db, session_id, 500, status="failed")
        assert db.state(session_id) == ("completed", "fulfilled", None)
        assert ledger(db, user) == (100, [100])

    def test_when_giving_back_fails_the_retry_gives_it_back(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        refund(db, session_id, 500)
        reverse_with(db, self.RAISE.format("P0001"))
        refund(db, session_id, 500, status="failed")
        assert db.state(session_id) == ("completed", "reversed", "reversal_failed")
        mend_reversal(db)
        assert retry(db, session_id)["fulfilment_status"] == "fulfilled"
        assert db.state(session_id) == ("completed", "fulfilled", None)
        assert ledger(db, user) == (100, [100, -100, 100])

    def test_the_share_that_a_handler_gets_is_that_of_all_refunds(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, "credits_100")
        reverse_with(db, "begin return jsonb_build_object('share', p_share, 'status', p_session.status); end")
        shares = []
        for amount, name, status in (
            (125, "re_1", "succeeded"), (125, "re_2", "succeeded"), (250, "re_3", "succeeded"),
            (125, "re_1", "failed"), (125, "re_2", "failed"), (250, "re_3", "failed"),
        ):  # fmt: skip
            refund(db, session_id, amount, name, status)
            shares.append(reversal(db, session_id)["share"])
        assert shares == [0.25, 0.5, 1, 0.75, 0.5, 0]


class TestUnfulfilledPurchases:
    @pytest.fixture
    def unfulfilled(self, db: Database, user: uuid.UUID) -> uuid.UUID:
        """A paid session whose credits could not be given, though they could be now."""
        db.break_fulfilment("credits", "PT409")
        session_id = buy(db, user, "credits_100")
        db.mend_fulfilment("credits")
        assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
        return session_id

    def test_refunded_in_full_there_is_nothing_left_to_give(
        self, db: Database, user: uuid.UUID, unfulfilled: uuid.UUID
    ) -> None:
        refund(db, unfulfilled, 500)
        assert db.state(unfulfilled) == ("refunded", "reversed", None)
        with refused("PT409", "nothing_to_retry"):
            retry(db, unfulfilled)
        assert ledger(db, user) == (0, [])

    def test_refunded_in_part_it_still_waits_and_the_retry_gives_the_rest(
        self, db: Database, user: uuid.UUID, unfulfilled: uuid.UUID
    ) -> None:
        refund(db, unfulfilled, 125)
        assert db.state(unfulfilled) == ("partially_refunded", "failed", "fulfilment_failed")
        assert db.session(unfulfilled)["error_code"] == "shelf_empty"
        answer = retry(db, unfulfilled)
        assert (answer["fulfilment_status"], answer["review_reason"]) == ("fulfilled", None)
        assert ledger(db, user) == (75, [100, -25])
        refund(db, unfulfilled, 375, "re_2")
        assert db.state(unfulfilled) == ("refunded", "reversed", None)
        assert ledger(db, user)[0] == 0

    def test_when_the_full_refund_fails_it_waits_for_a_person_again(
        self, db: Database, user: uuid.UUID, unfulfilled: uuid.UUID
    ) -> None:
        refund(db, unfulfilled, 500)
        refund(db, unfulfilled, 500, status="failed")
        assert db.state(unfulfilled) == ("completed", "failed", "fulfilment_failed")
        assert retry(db, unfulfilled)["fulfilment_status"] == "fulfilled"
        assert ledger(db, user) == (100, [100])

    def test_a_retry_that_gives_but_cannot_take_the_refunded_part_back_can_be_retried(
        self, db: Database, user: uuid.UUID, unfulfilled: uuid.UUID
    ) -> None:
        refund(db, unfulfilled, 125)
        reverse_with(db, "begin raise exception 'No.'; end")
        assert retry(db, unfulfilled)["review_reason"] == "reversal_failed"
        assert db.state(unfulfilled) == ("partially_refunded", "fulfilled", "reversal_failed")
        mend_reversal(db)
        retry(db, unfulfilled)
        assert db.state(unfulfilled) == ("partially_refunded", "fulfilled", None)
        assert ledger(db, user) == (75, [100, -25])

    def test_a_retry_that_fails_again_takes_nothing_back(
        self, db: Database, user: uuid.UUID, unfulfilled: uuid.UUID
    ) -> None:
        refund(db, unfulfilled, 125)
        db.break_fulfilment("credits")
        assert retry(db, unfulfilled)["fulfilment_status"] == "failed"
        assert db.state(unfulfilled) == ("partially_refunded", "failed", "fulfilment_failed")
        assert ledger(db, user) == (0, [])


def test_kind_none_leaves_taking_back_to_the_application(db: Database, user: uuid.UUID) -> None:
    session_id = buy(db, user, db.new_product("poster", USD=100))
    refund(db, session_id, 50, "re_1")
    assert reversal(db, session_id)["share"] == 0.5
    refund(db, session_id, 50, "re_2")
    assert db.state(session_id) == ("refunded", "reversed", None)
    assert healthy(db)


@pytest.mark.parametrize("returns", [False, True])
def test_a_full_refund_gives_the_coupons_place_back_if_the_settings_say_so(
    db: Database, user: uuid.UUID, returns: bool
) -> None:
    db.sql("insert into payments.coupons (id, percent_off, max_redemptions) values ('ONCE', 20, 1)")
    db.sql("update payments.settings set coupon_returns_on_refund = %s", returns)
    session_id = db.new_session(user, p_coupon="ONCE")
    db.complete(session_id, p_provider_payment_id="pi_1")

    def others_get_it() -> bool:
        answer = answer_or_reason(db.new_session, p_coupon="ONCE")
        assert answer == "coupon_exhausted" or isinstance(answer, uuid.UUID)
        return isinstance(answer, uuid.UUID)

    refund(db, session_id, 100, "re_1")
    assert not others_get_it()
    refund(db, session_id, 300, "re_2")
    assert others_get_it() == returns
    refund(db, session_id, 300, "re_2", "failed")
    assert not others_get_it()
    look = "select status from payments.coupon_redemptions where session_id = %s"
    assert db.value(look, session_id) == "confirmed"
    assert healthy(db)
