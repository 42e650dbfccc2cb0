"""Users, the service, providers, workers and time, in any order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.sql.properties.acts import Acts
from tests.sql.properties.catalogue import COUPONS
from tests.sql.properties.facts import Wish
from tests.sql.properties.model import DAY, HOUR

if TYPE_CHECKING:
    from tests.sql.properties.shop import Shop

__all__ = ["Checkout"]

WHICH = st.integers(0, 3)  # counted from the newest
PROVIDERS = st.sampled_from(["stripe", "paystack"])
PAYMENTS = st.sampled_from(["pi_a", "pi_b", "pi_c", "pi_d"])
# how much of the price comes, and in which currency
MONEY = st.sampled_from([(0, None), (0, None), (0, None), (-1, None), (100, None), (0, "EUR")])
COUPON = st.sampled_from([None, "the coupon"])
REFUND_STATUS = st.sampled_from(["succeeded", "succeeded", "pending", "failed"])
REFUND_NAME = st.sampled_from(["re_1", "re_2", "re_3", "re_shared"])
SHARE = st.sampled_from([1, 2, 3, 7])
PLANS = st.sampled_from(["coins", "coins", "pass", "poster", "circle", "circle"])
WISHES = st.builds(
    Wish,
    plan=st.sampled_from(["first", "first", "second"]), provider=PROVIDERS,
    currency=st.sampled_from([None, None, None, "NGN"]), coupon=COUPON, subject=st.sampled_from([None, None, "team"]),
    email=st.sampled_from([None, "a@b.test"]), reminders=st.booleans(), position=st.sampled_from([None, None, 2, 3]),
)  # fmt: skip


def act(name: str, /, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


BUYERS = st.one_of(
    act("buy", user=WHICH, wish=WISHES, key=st.sampled_from([None, None, "k", "l"]), by_service=st.booleans()),
    act("buy_again", which=WHICH, user=st.one_of(st.none(), WHICH)),
    act("buy_in_group", user=WHICH, group=WHICH, cycle=st.sampled_from([None, None, 1, 2]),
        position=st.sampled_from([None, 1, 2, 3]), coupon=COUPON),
    act("give_up", which=WHICH, user=WHICH, by=st.sampled_from(["user", "service", "failure"])),
    act("look_around", user=WHICH, plan=st.sampled_from(["first", "seat", "dues"]), coupon=COUPON,
        currency=st.sampled_from([None, "NGN"])),
    act("open_and_attach", which=WHICH, elsewhere=st.booleans()),
    act("open_and_attach", which=st.just(0), elsewhere=st.booleans()),
    act("buy_again", which=WHICH, user=st.none()),
    act("handle_page", which=WHICH, provider=PROVIDERS, minutes=st.sampled_from([None, None, 20, 3 * DAY]),
        what=st.sampled_from(["open", "attach", "attach", "attach other", "abandon"])),
)  # fmt: skip
PROVIDERS_SAY = st.one_of(
    act("hear_of_page", which=WHICH,
        word=st.sampled_from(["pending", "processing", "processing", "failed", "expired", "cancelled"])),
    act("hear_of_money", which=WHICH, payment=PAYMENTS, money=MONEY, event=st.sampled_from(["", "evt_1", "evt_2"]),
        fails_first=st.booleans()),
    act("hear_of_page", which=WHICH, word=st.sampled_from(["processing", "failed"])),
    act("hear_again", which=WHICH, with_event=st.booleans()),
    act("hear_of_refund", which=WHICH, payment=st.one_of(st.none(), st.none(), PAYMENTS), status=REFUND_STATUS,
        share=SHARE, name=REFUND_NAME, kind=st.sampled_from(["refund", "refund", "dispute"]), disputed=st.booleans()),
)  # fmt: skip
HOSTS = st.one_of(
    act("complete", which=WHICH, payment=st.one_of(st.none(), PAYMENTS), money=st.one_of(st.none(), MONEY),
        page=st.sampled_from(["", "own", "own", "other", "unheard of"]), as_alias=st.booleans()),
    act("pay_and_be_given", which=WHICH),
    act("pay_and_be_given", which=WHICH),
    act("refund", which=WHICH, name=REFUND_NAME, share=SHARE, status=REFUND_STATUS),
    act("refund", which=st.just(0), name=REFUND_NAME, share=SHARE, status=REFUND_STATUS),
    act("verify", which=WHICH, user=WHICH),
    act("spend", user=WHICH, amount=st.sampled_from([1, 60]), key=st.sampled_from(["x", "y"])),
    act("request", key=st.sampled_from(["r1", "r2"]), what=st.sampled_from(["begin", "begin", "completed", "failed"]),
        n=st.integers(1, 2), claim=st.sampled_from([None, 1, 2])),
)  # fmt: skip
TIME_AND_WORK = st.one_of(
    act("let_time_pass", minutes=st.sampled_from([2, 6, 45, 7 * HOUR, 25 * HOUR, 15 * DAY, 100 * DAY])),
    act("let_time_pass", minutes=st.sampled_from([2, 7 * HOUR, 25 * HOUR])),
    act("change_the_shop", what=st.just("terms"), which=WHICH, plan=st.just("coins"), flag=st.booleans()),
    act("work", job=st.sampled_from([
        "expire", "remind", "letters", "letters", "letters fail", "ask", "ask in vain", "ask and crash", "number",
        "clean up",
    ])),
    act("retry", which=WHICH),
    act("break_or_mend", kind=st.sampled_from(["credits", "group_join", "none"]), fulfil=st.booleans(),
        reverse=st.booleans()),
    act("change_the_shop", what=st.sampled_from(["price", "terms", "coupons", "counter", "delete user"]), which=WHICH,
        plan=st.sampled_from(["coins", "poster", "seat"]), flag=st.booleans()),
)  # fmt: skip


class Checkout(RuleBasedStateMachine):
    """Each example is a new history of the same shop."""

    shop: ClassVar[Shop]
    steps: ClassVar[int] = 0
    calls: ClassVar[Counter[str]] = Counter()

    @initialize(
        plans=st.tuples(PLANS, PLANS), coupon=st.sampled_from(sorted(COUPONS)), users=st.integers(1, 3),
        purchases=st.lists(
            st.tuples(WHICH, WISHES, st.sampled_from(["pay_and_be_given", "open_and_attach", "nothing"])),
            min_size=1, max_size=4,
        ),
    )  # fmt: skip
    def open_shop(
        self, plans: tuple[str, str], coupon: str, users: int, purchases: list[tuple[int, Wish, str]]
    ) -> None:
        """Few things for few buyers, so that what happens to one of them meets what happens to another."""
        self.acts = Acts(self.shop, users, {"first": plans[0], "second": plans[1]}, {"the coupon": coupon})
        for user, wish, then in purchases:
            self.acts.buy(user, wish, key=None, by_service=False)
            if then != "nothing":
                getattr(self.acts, then)(0)

    # one rule, because Hypothesis switches rules off at random: here all acts must be able to meet
    @rule(act=st.one_of(BUYERS, PROVIDERS_SAY, HOSTS, TIME_AND_WORK))
    def somebody(self, act: tuple[str, dict[str, Any]]) -> None:
        name, arguments = act
        getattr(self.acts, name)(**arguments)

    @invariant()
    def all_guarantees_hold(self) -> None:
        type(self).steps += 1
        self.acts.all_guarantees_hold()
        self.acts.the_rows_are_those_of_the_model()

    def teardown(self) -> None:
        if hasattr(self, "acts"):
            self.calls.update(self.acts.calls)
