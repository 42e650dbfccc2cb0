"""docs/clients.md runs as it is printed: by Node with supabase-js, by Python with supabase-py, and by curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.app_types import TYPES
from tests.support.bridge import KEYS
from tests.support.database import REPOSITORY
from tests.support.javascript import run_module, type_check
from tests.support.postgrest import PUBLISHABLE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.bridge import Bridge
    from tests.support.database import Database

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PRINTED_QUOTE = {"original_amount": 500, "discount_amount": 50, "amount": 450, "coupon": "WELCOME10"}
_GIVEN_UP = ("cancelled", "expired")  # the second when the closed page's own webhook is faster
_REFUSALS = [(409, "session_not_pending"), (404, "product_unknown")]

# what a browser has and Node lacks: an address, and a buyer who pays on the page that it leads to
_BROWSER = """
globalThis.location = {
  search: "",
  assign(page) { globalThis.away = pay(page); },
};
async function pay(page) {
  const body = new URLSearchParams({ action: "pay" });
  const paid = await fetch(page, { method: "POST", body, redirect: "manual" });
  const back = await fetch(paid.headers.get("location"), { redirect: "manual" });
  location.search = new URL(back.headers.get("location")).search;
}
"""
_AFTERWARDS = """
const again = await bridge("/checkout", { plan: "credits_500" });
const seen = [];
const fulfilled = new Promise((done, fail) => {
  setTimeout(() => fail(new Error(`watchSession saw only: ${seen}`)), 15_000);
  const changed = ({ status, fulfilment_status }) => {
    seen.push(`${status} ${fulfilment_status}`);
    if (status === "completed") done();
  };
  globalThis.stop = watchSession(again.session_id, changed, 50);
});
await new Promise((done) => setTimeout(done, 150));
await pay(again.checkout_url);
await fulfilled;
await stop();
answer({
  products, quote, paid, latest, history, stats, credits, subscriptions, invoices, page, given, seen,
  sessionId, refusals: [atSupabase, atTheBridge],
});
"""

_BUYER = """
supabase_url, publishable_key, bridge_url = {supabase_url!r}, {publishable_key!r}, {bridge_url!r}

def send_buyer_to(page):
    paid = httpx.post(page, data={{"action": "pay"}})
    httpx.get(paid.headers["location"])

"""
_TELL = """
import json
told = "products quote session_id paid history stats credits subscriptions invoices given at_supabase at_the_bridge"
print(json.dumps({name: globals()[name] for name in told.split()}))
"""


def blocks(language: str) -> list[str]:
    text = (REPOSITORY / "docs/clients.md").read_text("utf-8")
    return [code for kind, code in _BLOCK.findall(text) if kind == language]


@pytest.fixture(autouse=True)
def _coupon(db: Database) -> None:
    db.sql("insert into payments.coupons (id, percent_off) values ('WELCOME10', 10)")


def _pay(page: str) -> None:
    """What a buyer does on the sandbox's page, and the way back through the bridge."""
    paid = httpx.post(page, data={"action": "pay"})
    httpx.get(paid.headers["location"])


def _check_purchase(db: Database, session_id: str, paid: dict[str, Any]) -> None:
    (printed,) = [block for block in map(json.loads, blocks("json")) if "payment_status" in block]
    assert paid == printed
    (row,) = db.sql("select status, fulfilment_status from payment_checkout_sessions where id = %s", session_id)
    assert row == {"status": "completed", "fulfilment_status": "fulfilled"}


def test_the_printed_answers_have_the_fields_that_come(db: Database, bridge: Bridge) -> None:
    quote, checkout, paid = map(json.loads, blocks("json"))
    buyer = bridge.buyer()
    assert quote == db.as_user(buyer.id).rpc("quote_checkout", p_plan="credits_100", p_coupon="WELCOME10")
    opened = buyer.checkout(coupon="WELCOME10").json()
    assert list(opened) == list(checkout)
    assert (opened["status"], opened["amount"]) == (checkout["status"], checkout["amount"])
    assert list(buyer.verify(session_id=opened["session_id"]).json()) == list(paid)


@pytest.mark.needs("postgrest", "supabase_js")
def test_javascript(project: str, bridge: Bridge, db: Database, tmp_path: Path) -> None:
    code = "\nawait globalThis.away;\n".join([_BROWSER, *blocks("js"), _AFTERWARDS])
    given = {"supabaseUrl": project, "publishableKey": PUBLISHABLE, "bridgeUrl": bridge.url}
    known = run_module(tmp_path, code, given)
    assert [row["id"] for row in known["products"]] == ["credits_100", "credits_500", "pro_month"]
    assert known["quote"].items() >= _PRINTED_QUOTE.items()
    _check_purchase(db, known["sessionId"], known["paid"])
    assert (known["latest"]["id"], known["latest"]["status"]) == (known["sessionId"], "completed")
    assert [row["status"] for row in known["history"]["payments"]] == ["completed"]
    assert (known["stats"]["credits_bought"], known["credits"]) == (100, 100)
    assert (known["subscriptions"], [row["amount"] for row in known["invoices"]]) == ([], [450])
    assert known["page"]["checkout_url"]
    assert known["given"]["payment_status"] in _GIVEN_UP
    assert [(refusal["status"], refusal["reason"]) for refusal in known["refusals"]] == _REFUSALS
    assert all(refusal["message"] and refusal["hint"] for refusal in known["refusals"])
    # no socket can be had here: its timer told watchSession
    assert known["seen"] == ["pending none", "completed fulfilled"]


@pytest.mark.needs("postgrest")
def test_python(project: str, bridge: Bridge, db: Database, tmp_path: Path) -> None:
    given = {"supabase_url": project, "publishable_key": PUBLISHABLE, "bridge_url": bridge.url}
    app = tmp_path / "app.py"
    app.write_text(_BUYER.format(**given) + "\n".join(blocks("python")) + _TELL)
    done = subprocess.run([sys.executable, app], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout)
    assert [row["id"] for row in known["products"]] == ["credits_100", "credits_500", "pro_month"]
    assert known["quote"].items() >= _PRINTED_QUOTE.items()
    _check_purchase(db, known["session_id"], known["paid"])
    assert [row["status"] for row in known["history"]["payments"]] == ["completed"]
    assert (known["stats"]["credits_bought"], known["credits"]) == (100, 100)
    assert (known["subscriptions"], [row["amount"] for row in known["invoices"]]) == ([], [450])
    assert known["given"]["payment_status"] in _GIVEN_UP
    refusals = known["at_supabase"], known["at_the_bridge"]
    assert [(refusal["status"], refusal["reason"]) for refusal in refusals] == _REFUSALS
    assert all(refusal["hint"] for refusal in refusals)


@pytest.mark.needs("postgrest", "curl")
def test_curl(project: str, bridge: Bridge, db: Database, tmp_path: Path) -> None:
    user_id = db.new_user()
    (tmp_path / ".curlrc").write_text("silent\nshow-error\n")
    environment = {
        "PATH": "/usr/bin:/bin",
        "CURL_HOME": str(tmp_path),
        "SUPABASE_URL": project,
        "PUBLISHABLE_KEY": PUBLISHABLE,
        "BRIDGE_URL": bridge.url,
        "ACCESS_TOKEN": KEYS.token("HS256", "authenticated", str(user_id)),
    }

    def answers(code: str) -> list[Any]:
        done = subprocess.run(
            ["bash", "-euc", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), code
        decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
        while text:
            answer, end = decoder.raw_decode(text)
            found.append(answer)
            text = text[end:].lstrip()
        return found

    set_up, *order, come_back, stands, owns, give_up, refused = blocks("sh")
    assert answers(set_up) == []
    ((products,), (quote,), (checkout,)) = map(answers, order)
    assert [row["id"] for row in products] == ["credits_100", "credits_500", "pro_month"]
    assert quote.items() >= _PRINTED_QUOTE.items()
    environment["SESSION_ID"] = checkout["session_id"]
    _pay(checkout["checkout_url"])
    (paid,) = answers(come_back)
    _check_purchase(db, checkout["session_id"], paid)
    latest, history, stats = answers(stands)
    assert [row["id"] for row in latest] == [checkout["session_id"]]
    assert [row["status"] for row in history["payments"]] == ["completed"]
    assert stats["credits_bought"] == 100
    balances, subscriptions, invoices = answers(owns)
    assert [row["balance"] for row in balances] == [100]
    assert (subscriptions, [row["amount"] for row in invoices]) == ([], [450])
    page, given = answers(give_up)
    assert page["checkout_url"]
    assert given["payment_status"] in _GIVEN_UP
    at_supabase, first, at_the_bridge, second = answers(refused)
    refusals = [(first, at_supabase["details"]), (second, at_the_bridge["error"]["reason"])]
    assert refusals == _REFUSALS


@pytest.mark.needs("supabase_js")
def test_typescript(tmp_path: Path) -> None:
    shutil.copy(TYPES, tmp_path)
    (code,) = blocks("ts")
    (tmp_path / "app.ts").write_text(code)
    assert type_check(tmp_path, "app.ts") == []


def test_every_reason_that_the_page_names_exists() -> None:
    page = (REPOSITORY / "docs/clients.md").read_text("utf-8")
    table = page[page.index("| what comes |") : page.index("Without an answer supabase-js")]
    named = {
        word for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for word in re.findall(r"`([a-z_]+)`", row)
    }
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", (REPOSITORY / "docs/errors.md").read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= listed
