"""A bridge with an open dashboard, a shop with a past, and an operator in front of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from html import unescape

import httpx
import pytest

from bridge.report import recent
from bridge.simulators.stripe import StripeSimulator
from tests.cli.past import Past, make_past
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

TOKEN = "the-admin-token-of-these-tests"


@dataclass(frozen=True)
class Operator:
    """Somebody with a browser that runs no scripts: a cookie jar that reads pages and sends their forms."""

    http: httpx.Client

    def read(self, path: str = "", status: int = 200) -> str:
        """The text of a page, without its tags and with single spaces."""
        return text_of(self.get(path, status).text)

    def get(self, path: str = "", status: int = 200) -> httpx.Response:
        response = self.http.get(f"/dashboard{path}")
        assert response.status_code == status, response.text
        return response

    def sign_in(self, token: str = TOKEN, name: str = "Ann", wanted: str = "/dashboard") -> httpx.Response:
        return self.http.post("/dashboard/sign-in", data={"token": token, "name": name, "wanted": wanted})

    def send(self, page: str, action: str, **fields: str) -> httpx.Response:
        """Fill in the form of a page and send it; what it holds already is sent along."""
        html = self.get(page).text
        form = next(
            form for form in re.findall(r"<form.*?</form>", html, re.DOTALL) if f'action="/dashboard{action}"' in form
        )
        inputs = re.findall(r"<input[^>]*>", form)
        held = {_attribute(tag, "name"): _attribute(tag, "value") for tag in inputs}
        return self.http.post(f"/dashboard{action}", data=held | fields)


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', tag)
    return unescape(found[1]) if found else ""


def text_of(html: str) -> str:
    body = re.sub(r"<head>.*?</head>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(body).split())


@pytest.fixture(scope="session")
def _running() -> Iterator[tuple[ExitStack, list[Bridge]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def office(
    db: Database,
    stripe: StripeSimulator,
    _running: tuple[ExitStack, list[Bridge]],
    monkeypatch: pytest.MonkeyPatch,
) -> Bridge:
    """One bridge for all tests: each test's database has the same address. It remembers no report of an earlier one."""
    monkeypatch.setattr(recent, "REST", 0)
    monkeypatch.setattr(recent, "PATIENCE_SECONDS", 15.0)
    stack, running = _running
    if not running:
        running.append(stack.enter_context(running_bridge(db, stripe, admin_token=TOKEN)))
    assert running[0].db == db
    return running[0]


@pytest.fixture
def stranger(office: Bridge) -> Iterator[Operator]:
    """Not signed in; redirects are not followed."""
    with httpx.Client(base_url=office.url, timeout=30.0) as http:
        yield Operator(http)


@pytest.fixture
def ann(office: Bridge) -> Iterator[Operator]:
    """Signed in; redirects are followed."""
    with httpx.Client(base_url=office.url, timeout=30.0, follow_redirects=True) as http:
        operator = Operator(http)
        assert http.post(
            "/dashboard/sign-in", data={"token": TOKEN, "name": "Ann"}, follow_redirects=False
        ).has_redirect_location
        yield operator


@pytest.fixture
def past(db: Database) -> Past:
    return make_past(db)
