"""The main job in a real browser: buying in the shop, paying on the sandbox's page, and coming back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Route, expect

from tests.demo.shop import Shop

pytestmark = pytest.mark.needs("chromium")

NOTHING = {"sessions": [], "attempts": 0, "captures": 0, "periods": 0, "credit_entries": []}
ONE_PURCHASE = {
    "sessions": ["completed"],
    "attempts": 1,
    "captures": 1,
    "periods": 0,
    "credit_entries": [100],
}


def test_paying_brings_the_credits_once_and_a_line_in_the_history(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.press("Pay 5.00 USD")
    expect(shop.news).to_have_text("Paid$5 received. 100 credits added.")
    expect(shop.credits).to_have_text("100")
    expect(shop.purchases).to_have_count(1)
    for words in ("100 credits", "$5", "Paid", "100 credits added"):
        expect(shop.purchases).to_contain_text(words)
    expect(shop.purchases.get_by_role("time")).to_have_text(re.compile(r"^\w{3} \d+, \d+:\d\d [AP]M$"))
    assert shop.page.url == f"{shop.stack.url}/"
    assert shop.facts() == ONE_PURCHASE


def test_reloading_after_a_purchase_buys_nothing(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    shop.page.reload()
    expect(shop.credits).to_have_text("100")
    expect(shop.news).to_have_text("")
    assert shop.facts() == ONE_PURCHASE


def test_a_delayed_payment_is_on_its_way_and_then_arrives_without_a_reload(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.press("Pay later")
    expect(shop.news).to_contain_text("On its way")
    expect(shop.credits).to_have_text("0")
    expect(shop.purchases).to_contain_text("On its way")
    shop.page.evaluate("window.neverReloaded = true")
    shop.button("Buy 500 credits").focus()
    expect(shop.news).to_contain_text("100 credits added.", timeout=30_000)
    expect(shop.credits).to_have_text("100")
    expect(shop.button("Buy 500 credits")).to_be_focused()
    assert shop.page.evaluate("window.neverReloaded") is True
    assert shop.facts() == ONE_PURCHASE


def test_buying_again_while_the_payment_is_on_its_way_opens_no_second_page(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.press("Pay later")
    expect(shop.news).to_contain_text("On its way")
    shop.button("Buy 100 credits").click()
    expect(shop.button("Buy 100 credits")).to_have_attribute("aria-disabled", "false")
    expect(shop.news).to_contain_text("On its way")
    assert len(shop.posts("/checkout")) == 2
    assert shop.facts() == NOTHING | {"sessions": ["processing"], "attempts": 1}


def test_a_delayed_payment_arrives_while_the_page_tells_of_another_purchase(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.press("Pay later")
    expect(shop.news).to_contain_text("On its way")
    shop.buy("500 credits")
    shop.press("Pay 20.00 USD")
    expect(shop.news).to_contain_text("500 credits added.")
    expect(shop.credits).to_have_text("600", timeout=30_000)
    expect(shop.news).to_contain_text("100 credits added.")


def test_a_declined_buyer_is_told_and_can_try_again(shop: Shop) -> None:
    first = shop.buy("100 credits")
    shop.press("Decline")
    expect(shop.news).to_contain_text("The payment was declined. Nothing was charged.")
    expect(shop.credits).to_have_text("0")
    shop.button("Try again").click()
    assert shop.arrive_at_payment_page() != first
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    assert shop.facts() == ONE_PURCHASE | {"sessions": ["failed", "completed"], "attempts": 2}


def test_a_cancelled_payment_charges_nothing_and_says_so(shop: Shop) -> None:
    shop.buy("500 credits")
    shop.press("Cancel")
    expect(shop.news).to_contain_text("The payment was cancelled. Nothing was charged.")
    expect(shop.purchases).to_contain_text("Cancelled")
    expect(shop.purchases).to_contain_text("Nothing delivered")
    assert shop.facts() == NOTHING | {"sessions": ["cancelled"], "attempts": 1}


def test_a_double_click_on_buy_starts_one_purchase(shop: Shop) -> None:
    shop.button("Buy 100 credits").dblclick()
    shop.arrive_at_payment_page()
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    assert len(shop.posts("/checkout")) == 1
    assert shop.facts() == ONE_PURCHASE


def test_back_from_the_payment_page_and_buy_again_resumes_the_same_page(shop: Shop) -> None:
    shop.page.evaluate("window.asItWasLeft = true")
    first = shop.buy("100 credits")
    shop.page.go_back(wait_until="commit")
    assert shop.page.evaluate("window.asItWasLeft") is True
    expect(shop.purchases).to_contain_text("Not paid yet")
    assert shop.buy("100 credits") == first
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    assert shop.facts() == ONE_PURCHASE


def test_an_unpaid_purchase_is_continued_from_the_history_after_a_reload(shop: Shop) -> None:
    first = shop.buy("100 credits")
    shop.page.goto(shop.stack.url)
    shop.button("Continue to payment for 100 credits").click()
    assert shop.arrive_at_payment_page() == first
    assert shop.facts() == NOTHING | {"sessions": ["pending"], "attempts": 1}


def test_coming_back_unpaid_offers_the_open_page(shop: Shop) -> None:
    first = shop.buy("100 credits")
    session_id = shop.query("select id from public.payment_checkout_sessions where email = %(email)s")["id"]
    shop.page.goto(f"{shop.stack.url}/?session_id={session_id}&status=pending")
    expect(shop.news).to_contain_text("Not paid yet")
    shop.news.get_by_role("button", name="Continue to payment").click()
    assert shop.arrive_at_payment_page() == first


def test_the_same_product_can_be_bought_twice_under_two_keys(shop: Shop) -> None:
    for balance in ("100", "200"):
        shop.buy("100 credits")
        shop.press("Pay 5.00 USD")
        expect(shop.credits).to_have_text(balance)
    assert shop.facts() == {
        "sessions": ["completed", "completed"],
        "attempts": 2,
        "captures": 2,
        "periods": 0,
        "credit_entries": [100, 100],
    }
    assert len(keys(shop)) == 2


def keys(shop: Shop) -> set[str]:
    return {request.headers["idempotency-key"] for request in shop.posts("/checkout")}


def test_a_lost_answer_is_asked_for_again_under_the_same_key(shop: Shop) -> None:
    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    shop.page.route("**/checkout", lose_the_answer, times=1)
    shop.button("Buy 100 credits").click()
    expect(shop.trouble).to_contain_text("The shop cannot be reached.")
    shop.complaints.clear()
    shop.buy("100 credits")
    assert len(shop.posts("/checkout")) == 2
    assert len(keys(shop)) == 1
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    assert shop.facts() == ONE_PURCHASE


def test_a_lost_verification_is_repeated_until_it_is_answered(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.page.route("**/verify", lambda route: route.abort(), times=1)
    shop.press("Pay 5.00 USD")
    expect(shop.news).to_contain_text("100 credits added.")
    expect(shop.trouble).to_have_text("")
    shop.complaints.clear()
    assert shop.facts() == ONE_PURCHASE


def test_buying_pro_starts_the_subscription_and_buying_it_again_extends_it(shop: Shop) -> None:
    expect(shop.subscription).to_contain_text("None")
    ends = []
    for _ in range(2):
        shop.buy("Pro, one month")
        shop.press("Pay 12.00 USD")
        expect(shop.news).to_contain_text("$12 received. Pro until")
        expect(shop.subscription).to_contain_text(re.compile("Pro.*until .* 20"))
        ends.append(shop.subscription.inner_text())
    assert ends[0] != ends[1]
    assert shop.facts() == {
        "sessions": ["completed", "completed"],
        "attempts": 2,
        "captures": 2,
        "periods": 2,
        "credit_entries": [],
    }


@pytest.mark.parametrize(
    ("currency", "in_the_shop", "on_the_page"),
    [
        ("USD", "$5", "5.00 USD"),
        ("NGN", "₦7,500", "7,500.00 NGN"),
        ("UZS", "UZS\N{NO-BREAK SPACE}60,000", "60,000.00 UZS"),
        ("ILS", "₪19", "19.00 ILS"),
    ],
)
def test_the_chosen_currency_is_the_one_that_is_paid(
    shop: Shop, currency: str, in_the_shop: str, on_the_page: str
) -> None:
    shop.choose(currency)
    assert in_the_shop in shop.product("100 credits").inner_text()
    shop.buy("100 credits")
    expect(shop.page.get_by_role("heading", level=1)).to_have_text(on_the_page)
    shop.press(f"Pay {on_the_page}")
    expect(shop.news).to_contain_text(f"{in_the_shop} received.")
    expect(shop.page.get_by_role("radio", name=currency)).to_be_checked()
    assert shop.facts() == ONE_PURCHASE


def test_another_currency_replaces_the_unpaid_page_and_the_first_currency_can_be_had_again(shop: Shop) -> None:
    for currency in ("USD", "ILS", "USD"):
        shop.choose(currency)
        shop.buy("100 credits")
        shop.page.goto(shop.stack.url)
        expect(shop.purchases.first).to_contain_text("Not paid yet")
    assert shop.facts() == NOTHING | {"sessions": ["cancelled", "cancelled", "pending"], "attempts": 3}


def test_prices_are_public_and_buying_asks_to_sign_in(visit: Callable[..., Shop]) -> None:
    shop = visit()
    shop.page.goto(shop.stack.url)
    expect(shop.product("500 credits")).to_contain_text("$20")
    expect(shop.page.get_by_role("heading", name="Your purchases")).to_be_hidden()
    shop.button("Sign in to buy 500 credits").click()
    shop.buy("500 credits")


def test_a_token_of_yesterday_leads_back_to_signing_in(visit: Callable[..., Shop]) -> None:
    shop = visit()
    shop.page.goto(shop.stack.url)
    shop.page.evaluate("sessionStorage.setItem('token', 'of another day')")
    shop.page.reload()
    expect(shop.trouble).to_contain_text("You are signed out.")
    shop.complaints.clear()
    shop.button("Sign in as a demo user").click()
    expect(shop.credits).to_have_text("0")
    expect(shop.trouble).to_have_text("")


def test_signing_out_forgets_the_user_and_a_new_user_owns_nothing(shop: Shop) -> None:
    shop.buy("100 credits")
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    shop.button("Sign out").click()
    expect(shop.page.get_by_text("@example.test")).to_be_hidden()
    shop.button("Sign in as a demo user").click()
    expect(shop.credits).to_have_text("0")
    expect(shop.page.get_by_text("Nothing yet.")).to_be_visible()


def test_an_answer_that_comes_after_signing_out_shows_nothing(shop: Shop) -> None:
    asked: list[Route] = []

    def hold_the_second(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.continue_()

    shop.buy("100 credits")
    shop.page.route("**/demo/account", hold_the_second)
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    while len(asked) < 2:
        shop.page.wait_for_timeout(20)
    shop.button("Sign out").click()
    with shop.page.expect_response("**/demo/account"):
        asked[1].continue_()
    shop.page.wait_for_timeout(200)
    expect(shop.button("Sign in as a demo user")).to_be_visible()
    expect(shop.page.get_by_text("@example.test")).to_be_hidden()
    expect(shop.news).to_have_text("")


def test_a_refusal_of_the_bridge_is_told_in_its_own_words(shop: Shop) -> None:
    shop.change("update public.payment_products set active = false where id = 'credits_500'")
    try:
        shop.button("Buy 500 credits").click()
        expect(shop.trouble).to_contain_text("There is no product 'credits_500'.")
    finally:
        shop.change("update public.payment_products set active = true where id = 'credits_500'")
    shop.complaints.clear()
    shop.buy("500 credits")


def test_names_from_the_database_are_shown_as_text(shop: Shop) -> None:
    hostile = "<img src=x onerror=document.title=1>"
    shop.change(f"update public.payment_products set name = '{hostile}' where id = 'credits_500'")
    try:
        shop.page.reload()
        expect(shop.page.get_by_role("heading", name=hostile)).to_be_visible()
        shop.button(f"Buy {hostile}").click()
        shop.arrive_at_payment_page()
        expect(shop.page.get_by_text(hostile)).to_be_visible()
        shop.press("Decline")
        expect(shop.purchases).to_contain_text(hostile)
        assert shop.page.locator("img").count() == 0
    finally:
        shop.change("update public.payment_products set name = '500 credits' where id = 'credits_500'")
