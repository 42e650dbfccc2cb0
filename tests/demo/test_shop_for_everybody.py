"""The shop and the payment page on a phone, by keyboard, for a screen reader, and in either colour scheme."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.demo.shop import Shop
from tests.support.browser import survey

pytestmark = pytest.mark.needs("chromium")

_PHONE = {"width": 375, "height": 667}


def with_history(shop: Shop) -> None:
    """One purchase of each kind that the history can tell of, and the news of a declined one on top."""
    shop.sign_in()
    shop.buy("100 credits")
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    shop.buy("500 credits")
    shop.press("Pay later")
    expect(shop.news).to_contain_text("On its way")
    shop.choose("UZS")
    shop.buy("Pro, one month")
    shop.page.goto(shop.stack.url)
    expect(shop.button("Continue to payment for Pro, one month")).to_be_visible()
    shop.buy("Pro, one month")
    shop.press("Decline")
    expect(shop.button("Try again")).to_be_visible()


def test_nothing_is_wider_than_a_phone(visit: Callable[..., Shop]) -> None:
    shop = visit(viewport=_PHONE, is_mobile=True, has_touch=True)
    shop.page.goto(shop.stack.url)
    expect(shop.product("100 credits")).to_be_visible()
    assert survey(shop.page, "tooWide") == []
    with_history(shop)
    assert survey(shop.page, "tooWide") == []
    shop.buy("Pro, one month")
    assert survey(shop.page, "tooWide") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(visit: Callable[..., Shop], scheme: str) -> None:
    shop = visit(color_scheme=scheme)
    shop.page.goto(shop.stack.url)
    expect(shop.product("100 credits")).to_be_visible()
    assert survey(shop.page, "faintText") == []
    with_history(shop)
    assert survey(shop.page, "faintText") == []
    shop.buy("100 credits")
    assert survey(shop.page, "faintText") == []


def test_faint_text_would_be_noticed(shop: Shop) -> None:
    shop.page.add_style_tag(content="h1 { color: #b5aea5 }")
    assert [words.partition(" (")[0] for words in survey(shop.page, "faintText")] == ["Pay once, get it once."]


def test_a_purchase_can_be_made_with_the_keyboard_alone(visit: Callable[..., Shop]) -> None:
    shop = visit()
    shop.page.goto(shop.stack.url)
    expect(shop.product("100 credits")).to_be_visible()
    tab_to(shop.page, "Sign in as a demo user")
    shop.page.keyboard.press("Enter")
    expect(shop.page.get_by_role("radio", name="USD")).to_be_focused()
    shop.page.keyboard.press("ArrowRight")
    expect(shop.page.get_by_role("radio", name="NGN")).to_be_checked()
    tab_to(shop.page, "Buy 500 credits")
    shop.page.keyboard.press("Enter")
    shop.arrive_at_payment_page()
    tab_to(shop.page, "Pay 30,000.00 NGN")
    shop.page.keyboard.press("Enter")
    expect(shop.credits).to_have_text("500")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the control of this name has the focus; each one on the way shows that it has it."""
    for _ in range(20):
        page.keyboard.press("Tab")
        assert survey(page, "invisibleFocus") == []
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            return
    pytest.fail(f"Tab never reached {name!r}")


def test_a_screen_reader_finds_its_way(visit: Callable[..., Shop]) -> None:
    shop = visit()
    with_history(shop)
    page = shop.page
    assert page.locator("html").get_attribute("lang") == "en"
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    for section in ("Products", "Your purchases"):
        expect(page.get_by_role("region", name=section).get_by_role("heading", name=section, level=2)).to_be_visible()
    expect(page.get_by_role("group", name="Currency").get_by_role("radio")).to_have_count(4)
    expect(page.get_by_role("columnheader")).to_have_text(["Product", "Status", "Amount"])
    expect(shop.news).to_contain_text("Not paid")
    names = [button.text_content() for button in page.get_by_role("button").all()]
    assert None not in names
    assert "" not in names
    assert len(names) == len(set(names)), "each button has a name of its own"


def test_the_payment_page_has_a_title_one_heading_and_named_buttons(shop: Shop) -> None:
    shop.buy("100 credits")
    expect(shop.page).to_have_title("Pay 5.00 USD · Sandbox")
    assert shop.page.locator("html").get_attribute("lang") == "en"
    expect(shop.page.get_by_role("main")).to_have_count(1)
    expect(shop.page.get_by_role("heading", level=1)).to_have_count(1)
    expect(shop.page.get_by_role("button")).to_have_text(
        ["Pay 5.00 USD", "Pay later (arrives in 8 s)", "Decline", "Cancel"]
    )


def test_a_settled_payment_page_says_so_and_leads_back(shop: Shop) -> None:
    page_url = shop.buy("100 credits")
    shop.press("Pay 5.00 USD")
    expect(shop.credits).to_have_text("100")
    shop.page.goto(page_url)
    expect(shop.page.get_by_role("status")).to_contain_text("paid")
    shop.page.get_by_role("link", name="Back to the shop").click()
    expect(shop.credits).to_have_text("100")
