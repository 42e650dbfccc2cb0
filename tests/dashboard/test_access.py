"""Who gets in, and who can make an operator's browser do something."""

from __future__ import annotations

import hashlib
import re
import time

import httpx
import jwt
import pytest

from bridge.api.dashboard import acts, pages
from tests.cli.past import Past
from tests.dashboard.conftest import TOKEN, Operator
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

PAGES = ["", "/sessions", "/reviews", "/dead-letters", "/find?q=x-y", "/sessions/01a1ee87-3200-7358-9d37-295cb5e9a207"]
COOKIE = "pgcheckout_dashboard"


def test_a_stranger_is_sent_to_sign_in_and_then_on(stranger: Operator) -> None:
    for path in PAGES:
        sent = stranger.get(path, 303).headers["location"]
        assert sent.startswith("/dashboard/sign-in?next=")
        wanted = dict(httpx.URL(sent).params)["next"]
        assert stranger.sign_in(wanted=wanted).headers["location"] == wanted == f"/dashboard{path}"
        stranger.http.cookies.clear()


def test_every_route_but_those_of_signing_in_asks_who_it_is(stranger: Operator) -> None:
    for route in (*pages.router.routes, *acts.router.routes):
        if route.path == "/dashboard/":  # type: ignore[attr-defined]
            continue  # leads to the page without a slash
        path = re.sub(r"\{\w+(:path)?\}", "01a1ee87-3200-7358-9d37-295cb5e9a207", route.path)  # type: ignore[attr-defined]
        (method,) = route.methods  # type: ignore[attr-defined]
        answer = stranger.http.request(method, path, data={"csrf": "x"} if method == "POST" else None)
        assert (answer.status_code, answer.headers["location"][:18]) == (303, "/dashboard/sign-in"), path


def test_only_the_admin_token_opens(stranger: Operator) -> None:
    for token in ("wrong", TOKEN[:-1], TOKEN + "x", f"Bearer {TOKEN}"):
        answer = stranger.sign_in(token)
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        assert "The admin token is missing or wrong." in answer.text
    stranger.get("", 303)


def test_an_operator_has_a_name(stranger: Operator) -> None:
    for name in ("", "   ", "a" * 61, "a\nb"):
        answer = stranger.sign_in(name=name)
        assert (answer.status_code, "name" in answer.text) == (422, True)


def test_a_sign_in_leads_nowhere_but_into_the_dashboard(stranger: Operator) -> None:
    for wanted in (
        "https://evil.test/", "//evil.test/dashboard", "/dashboard/../admin", "/dashboard\\evil.test", "/healthz",
        "/dashboard@evil.test", "javascript:alert(1)", "/dashboard/x\r\nx: y", "/dashboardx",
    ):  # fmt: skip
        assert stranger.sign_in(wanted=wanted).headers["location"] == "/dashboard", wanted


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: Operator) -> None:
    cookie = stranger.sign_in().headers["set-cookie"].lower()
    assert {"httponly", "samesite=lax", "path=/dashboard"} <= set(cookie.split("; "))
    assert "secure" not in cookie


def test_over_https_the_cookie_never_travels_in_the_clear(db: Database) -> None:
    with running_bridge(db, admin_token=TOKEN, public_url="https://pay.test") as bridge:
        answer = Operator(bridge.http).sign_in()
    assert "secure" in answer.headers["set-cookie"].lower().split("; ")


def test_a_visit_ends(ann: Operator) -> None:
    cookie = ann.http.cookies[COOKIE]
    claims = jwt.decode(cookie, options={"verify_signature": False})
    assert 0 < claims["exp"] - time.time() <= 8 * 3600
    assert ann.send("", "/sign-out").url.path == "/dashboard/sign-in"
    assert COOKIE not in ann.http.cookies


@pytest.mark.parametrize("key", [TOKEN.ljust(32), "x" * 32, hashlib.sha256(TOKEN.encode()).hexdigest()])
def test_a_cookie_of_another_make_is_none(stranger: Operator, key: str) -> None:
    claims = {"sub": "Ann", "jti": "x", "aud": COOKIE, "exp": time.time() + 600}
    for forged in (
        jwt.encode(claims, key, algorithm="HS256"),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims, key.ljust(64), algorithm="HS512"),
        "garbage",
    ):
        assert stranger.http.get("/dashboard", headers={"Cookie": f"{COOKIE}={forged}"}).status_code == 303


def test_what_is_said_once_opens_nothing(ann: Operator, office: Bridge, past: Past) -> None:
    """Both cookies are signed with one key; each has its own use."""
    page = f"/sessions/{past.failed}"
    ann.http.follow_redirects = False
    said = ann.send(page, f"{page}/note", note="hello").cookies["pgcheckout_dashboard_said"]
    assert office.http.get("/dashboard", headers={"Cookie": f"{COOKIE}={said}"}).status_code == 303


def test_another_token_ends_all_visits(db: Database) -> None:
    with running_bridge(db, admin_token=TOKEN) as bridge:
        cookie = Operator(bridge.http).sign_in().cookies[COOKIE]
        assert httpx.get(f"{bridge.url}/dashboard", cookies={COOKIE: cookie}).status_code == 200
    with running_bridge(db, admin_token=TOKEN + "-changed") as bridge:
        assert httpx.get(f"{bridge.url}/dashboard", cookies={COOKIE: cookie}).status_code == 303


def test_a_form_of_another_site_does_nothing(ann: Operator, db: Database, past: Past) -> None:
    before = db.everything()
    for csrf in ("", "0" * 64, "\N{LATIN SMALL LETTER U WITH DIAERESIS}"):
        for action in ("retry", "dismiss", "ask", "note", "refund"):
            fields = {"csrf": csrf, "note": "x", "reasons": "fulfilment_failed", "amount": "1", "key": "k" * 32}
            answer = ann.http.post(f"/dashboard/sessions/{past.undelivered}/{action}", data=fields)
            assert (answer.status_code, "not of this visit" in answer.text) == (401, True), action
        assert ann.http.post("/dashboard/dead-letters/replay", data={"csrf": csrf}).status_code == 401
    assert db.everything() == before


def test_a_form_of_another_visit_does_nothing(ann: Operator, stranger: Operator, past: Past, db: Database) -> None:
    stranger.sign_in(name="Bob")
    html = stranger.get("/reviews").text
    (csrf,) = set(re.findall(r'name="csrf" value="(\w+)"', html))
    before = db.everything()
    answer = ann.http.post(f"/dashboard/sessions/{past.undelivered}/retry", data={"csrf": csrf})
    assert answer.status_code == 401
    assert db.everything() == before


def test_without_an_admin_token_there_is_no_dashboard(db: Database) -> None:
    with running_bridge(db) as bridge:
        for path in ("", "/sign-in", "/sessions"):
            answer = bridge.http.get(f"/dashboard{path}")
            assert answer.status_code == 404
            assert "PGCHECKOUT_ADMIN_TOKEN" in answer.text
        assert Operator(bridge.http).sign_in().status_code == 404


def test_pages_load_nothing_from_elsewhere_and_are_not_kept(ann: Operator) -> None:
    answer = ann.get()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert not re.findall(r"https?://(?!127)", answer.text)
    assert not re.findall(r"<[^>]+\s(?:style|on\w+)=|<script(?! src)", answer.text)


@pytest.mark.usefixtures("past")
def test_files_are_kept_by_their_digest(ann: Operator) -> None:
    files = set(re.findall(r'(?:src|href)="(/dashboard/static/[^"]+)"', ann.get().text))
    assert {file.split("?")[0].rsplit("/", 1)[1] for file in files} == {"chart.js", "dashboard.css", "dashboard.js"}
    for file in files:
        answer = ann.http.get(file)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        other = ann.http.get(f"{file.split('?')[0]}?v=0123456789ab")  # another version's
        assert other.headers["cache-control"] == "no-store"
    for name in ("../access.py", "..%2faccess.py", "nothing.js"):
        assert ann.http.get(f"/dashboard/static/{name}").status_code == 404


def test_the_library_of_the_charts_is_the_one_that_its_makers_ship(ann: Operator) -> None:
    script = ann.http.get("/dashboard/static/chart.js").text
    assert script.startswith("/*!\n * Chart.js v4.")
    assert "MIT License" in script[:300]
