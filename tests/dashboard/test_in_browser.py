"""The dashboard in a real browser: charts, no scripts, keyboard, phone, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cli.past import Past
from tests.dashboard.conftest import TOKEN
from tests.support.bridge import Bridge
from tests.support.browser import PATIENCE_MS, survey
from tests.support.database import Database

pytestmark = pytest.mark.needs("chromium")

PHONE = {"width": 375, "height": 667}
Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, office: Bridge) -> Iterator[Visit]:
    """Signs in. At the end the console of no page had complaints: the content security policy refused nothing."""
    complaints: list[str] = []
    pages: list[Page] = []

    def sign_in(**options: Any) -> Page:
        page = browser.new_context(base_url=office.url, **options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        pages.append(page)
        page.goto("/dashboard")
        page.get_by_label("Your name").fill("Ann")
        page.get_by_label("Admin token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        return page

    yield sign_in
    for page in pages:
        page.context.close()
    assert complaints == []


@pytest.fixture
def busy(db: Database, past: Past) -> Past:
    """Something on every page."""
    db.as_service().rpc("record_heartbeat", p_name="web-1")
    db.as_service().rpc(
        "record_webhook_failure", p_provider="stripe", p_error="session_not_found", p_retryable=False,
        p_event={"id": "evt_dead", "type": "checkout.session.completed", "payload": {}},
    )  # fmt: skip
    return past


def paths(past: Past) -> tuple[str, ...]:
    return ("", "/sessions", f"/sessions/{past.undelivered}", f"/sessions/{past.refunded}", "/reviews", "/dead-letters")


@pytest.mark.usefixtures("busy")
def test_charts_are_drawn_from_the_table(visit: Visit) -> None:
    page = visit()
    charts = page.get_by_role("img")
    expect(charts).to_have_count(4)
    expect(charts.first).to_have_accessible_name("Conversion and abandonment per day; the table below has the figures")
    drawn = page.evaluate(
        "[...document.querySelectorAll('canvas')].map((canvas) => Chart.getChart(canvas).data.datasets)"
    )
    revenue = {datasets[0]["label"]: sum(datasets[0]["data"]) for datasets in drawn[1:]}
    assert revenue == {"Revenue JPY": 1200, "Revenue NGN": 7500, "Revenue USD": 37}
    assert [series["data"][-1] for series in drawn[0]] == [50, 0]
    # ink on the canvas, not only numbers behind it
    assert page.evaluate(
        "[...document.querySelectorAll('canvas')].every((canvas) => canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0))"
    )


def test_reading_and_acting_need_no_script(visit: Visit, busy: Past, db: Database) -> None:
    page = visit(java_script_enabled=False)
    expect(page.get_by_role("table").first).to_contain_text("7,500.00 NGN")
    expect(page.locator("figure:visible")).to_have_count(0)
    page.get_by_role("link", name="1 to review").click()
    page.get_by_text("Dismiss", exact=True).click()
    page.get_by_label("What was done, for the audit trail").fill("sent by post")
    page.get_by_role("button", name="Close the review").click()
    expect(page.get_by_role("status")).to_have_text("Done. The review is closed.")
    assert db.session(busy.undelivered)["review_reason"] is None


def test_by_keyboard_alone(visit: Visit, busy: Past, db: Database) -> None:
    page = visit()
    page.goto("/dashboard/reviews")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    seen = []
    for _ in range(3):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert survey(page, "invisibleFocus") == []
    assert seen[1:] == ["Retry fulfilment", "Ask the provider"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Done. Tried again: fulfilled.")
    assert db.state(busy.undelivered)[1] == "fulfilled"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_read_by_everybody(visit: Visit, busy: Past, scheme: str) -> None:
    page = visit(color_scheme=scheme, viewport=PHONE, is_mobile=True, has_touch=True)
    for path in paths(busy):
        page.goto(f"/dashboard{path}")
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        assert survey(page, "faintText") == [], path
        width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert width == 0, path  # wide tables scroll in their own place
        assert page.title()
        assert page.get_by_role("heading", level=1).count() == 1
        nameless = page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select, button, summary')].filter((element) =>"
            " !(element.labels?.length || element.textContent.trim() || element.ariaLabel)).map((e) => e.outerHTML)"
        )
        assert nameless == [], path
