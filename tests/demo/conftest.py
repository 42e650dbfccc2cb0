"""The demo's whole stack, and a real browser in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from bridge.demo.stack import Stack, running_stack
from tests.demo.shop import Shop
from tests.support.browser import PATIENCE_MS


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(0) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, stack: Stack) -> Iterator[Callable[..., Shop]]:
    """Opens the shop for a new visitor, with any option of a browser context.

    At the end nothing has left this machine and the browser's console is empty, unless the test emptied it itself.
    """
    shops: list[Shop] = []

    def open_shop(**options: Any) -> Shop:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        shops.append(Shop(context.new_page(), stack))
        return shops[-1]

    yield open_shop
    for shop in shops:
        shop.page.context.close()
    addresses = {urlsplit(request.url) for shop in shops for request in shop.requests}
    assert {address.hostname for address in addresses if address.scheme != "data"} == {"127.0.0.1"}
    assert [complaint for shop in shops for complaint in shop.complaints] == []


@pytest.fixture
def shop(visit: Callable[..., Shop]) -> Shop:
    """The shop with a new visitor who has just signed in."""
    shop = visit()
    shop.sign_in()
    return shop
