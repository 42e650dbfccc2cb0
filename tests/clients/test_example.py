"""The example app in a real browser, with the real supabase-js, PostgREST, bridge and sandbox."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from bridge.money import exponent
from bridge.settings import Settings
from tests.support.browser import PATIENCE_MS, survey
from tests.support.database import REPOSITORY, Database, Row, apply_files
from tests.support.example import PAGE, Example, running_example
from tests.support.parts import NODE_MODULES

pytestmark = pytest.mark.needs("chromium", "postgrest", "supabase_js")

_READABLE = {"access-control-allow-origin": "*"}
# whose minor unit is not a hundredth
_ODD = {code: exponent(code) for code in map("".join, product(ascii_uppercase, repeat=3)) if exponent(code) != 2}
_README = (REPOSITORY / "examples" / "README.md").read_text("utf-8")


@dataclass
class Visit:
    """A visitor's browser on the page. It keeps all requests and all complaints of the console."""

    page: Page
    example: Example
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 # it wants a function
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(self.example.url)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    @property
    def news(self) -> Locator:
        return self.page.get_by_role("status")

    @property
    def trouble(self) -> Locator:
        return self.page.get_by_role("alert")

    @property
    def credits(self) -> Locator:
        return self.page.locator("dt:text-is('Credits') + dd")

    @property
    def purchases(self) -> Locator:
        return self.page.get_by_role("list", name="Your purchases").get_by_role("listitem")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def sign_in(self) -> None:
        self.press("Sign in as a guest")
        expect(self.credits).to_be_visible()

    def buy(self, product: str, action: str) -> None:
        """Press Buy, then this button of the payment page; back when the page shows its news."""
        self.press(f"Buy {product}")
        self.page.get_by_role("button", name=re.compile(f"^{action}")).click()
        self.page.wait_for_url(f"{self.example.url}/")

    def keys(self) -> list[str]:
        orders = [request for request in self.requests if urlsplit(request.url).path == "/checkout"]
        return [request.headers["idempotency-key"] for request in orders if request.method == "POST"]


@pytest.fixture(scope="module")
def shop_db(server: LocalPostgres) -> Iterator[Database]:
    """The shop's database, for all tests of this file: each visitor is a guest of their own."""
    migrate(server.create_look_alike("shop"))
    db = Database("127.0.0.1", server.port, "shop")
    apply_files(db.url(), [seed_file()])
    yield db
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as connection:
        connection.execute("drop database shop with (force)")


@pytest.fixture(scope="module")
def example(shop_db: Database, server: LocalPostgres) -> Iterator[Example]:
    with running_example(server, shop_db.url()) as example:
        yield example


@pytest.fixture
def visitor(example: Example, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visitor; at the end nothing has left this machine, and the console is empty unless the test emptied it."""
    context = browser.new_context(**getattr(request, "param", {}))
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page(), example)
    yield visit
    context.close()
    addresses = {urlsplit(request.url) for request in visit.requests}
    assert {address.hostname for address in addresses if address.scheme != "data"} == {"127.0.0.1"}
    assert visit.complaints == []


def _latest(db: Database) -> Row:
    (row,) = db.sql(
        "select status, fulfilment_status, amount, currency from payment_checkout_sessions order by id desc limit 1"
    )
    return row


def test_a_guest_buys_comes_back_and_sees_what_was_delivered(visitor: Visit, shop_db: Database) -> None:
    visitor.sign_in()
    visitor.buy("100 credits", "Pay [0-9]")
    expect(visitor.news).to_have_text("Paid. Thank you.100 credits are yours.")
    expect(visitor.credits).to_have_text("100")
    expect(visitor.purchases).to_have_text("100 credits$5.00, paid and delivered")
    assert _latest(shop_db) == {
        "status": "completed",
        "fulfilment_status": "fulfilled",
        "amount": 500,
        "currency": "USD",
    }
    visitor.page.reload()
    expect(visitor.credits).to_have_text("100")
    expect(visitor.news).to_have_text("")
    visitor.press("Sign out")
    visitor.sign_in()  # as another guest
    expect(visitor.page.get_by_text("Nothing yet.")).to_be_visible()


def test_the_chosen_currency_is_the_one_that_is_paid(visitor: Visit, shop_db: Database) -> None:
    visitor.page.get_by_label("Currency").select_option("ILS")
    expect(visitor.page.get_by_role("listitem").filter(has_text="100 credits")).to_contain_text("₪19.00")
    visitor.press("Sign in to buy 100 credits")
    visitor.buy("100 credits", "Pay [0-9]")
    expect(visitor.purchases).to_contain_text("₪19.00, paid")
    assert _latest(shop_db) == {
        "status": "completed",
        "fulfilment_status": "fulfilled",
        "amount": 1900,
        "currency": "ILS",
    }


def test_prices_have_the_digits_of_their_currency(visitor: Visit, shop_db: Database) -> None:
    """Not those that browsers show by custom: they have none for forints, dinars of Iraq and pesos of Colombia."""
    prices = {"HUF": (180_000, "HUF\u00a01,800.00"), "IQD": (6_500_000, "IQD\u00a06,500.000"), "JPY": (700, "¥700")}
    insert = "insert into public.payment_prices (product_id, currency, amount) values ('credits_100', %s, %s)"
    for currency, (amount, _) in prices.items():
        shop_db.sql(insert, currency, amount)
    try:
        visitor.page.reload()
        for currency, (_, shown) in prices.items():
            visitor.page.get_by_label("Currency").select_option(currency)
            expect(visitor.page.locator("#products .price").filter(has_text=shown)).to_have_count(1)
    finally:
        shop_db.sql("delete from public.payment_prices where currency = any(%s)", list(prices))
    script = (REPOSITORY / "examples/shop/shop.js").read_text("utf-8")
    none, three = re.findall(r'^const \w+ = "([A-Z ]+)"', script, re.MULTILINE)
    assert dict.fromkeys(none.split(), 0) | dict.fromkeys(three.split(), 3) == _ODD


def test_a_payment_on_its_way_is_asked_about_until_it_arrives(visitor: Visit) -> None:
    on_its_way = {"success": False, "payment_status": "processing", "fulfilment": None, "message": "It takes a while."}
    visitor.page.route("**/verify", lambda route: route.fulfill(json=on_its_way, headers=_READABLE), times=1)
    visitor.sign_in()
    visitor.buy("100 credits", "Pay [0-9]")
    expect(visitor.news).to_have_text("It takes a while.")
    expect(visitor.news).to_contain_text("100 credits are yours.")
    expect(visitor.credits).to_have_text("100")


def test_who_declines_is_told_and_can_buy_again(visitor: Visit) -> None:
    visitor.sign_in()
    visitor.buy("100 credits", "Decline")
    expect(visitor.news).to_contain_text("The payment failed. Nothing was charged")
    visitor.buy("100 credits", "Pay [0-9]")
    expect(visitor.credits).to_have_text("100")
    assert len(set(visitor.keys())) == 2


def test_a_refusal_of_the_bridge_is_told_in_its_own_words(visitor: Visit, shop_db: Database) -> None:
    visitor.sign_in()
    shop_db.sql("update payment_products set active = false where id = 'credits_500'")
    try:
        visitor.press("Buy 500 credits")
        expect(visitor.trouble).to_contain_text("There is no product 'credits_500'.")
    finally:
        shop_db.sql("update payment_products set active = true where id = 'credits_500'")
    visitor.complaints.clear()  # the browser's own, about the answer 404


def test_an_answer_that_is_lost_is_told_and_asked_for_again_with_the_same_key(visitor: Visit) -> None:
    visitor.sign_in()
    visitor.page.route("**/checkout", lambda route: route.abort(), times=1)
    visitor.press("Buy 100 credits")
    expect(visitor.trouble).to_contain_text("The payment service cannot be reached.Try again")
    visitor.complaints.clear()
    visitor.buy("100 credits", "Pay [0-9]")
    expect(visitor.credits).to_have_text("100")
    lost, repeated = visitor.keys()
    assert lost == repeated


def test_a_token_of_another_day_leads_back_to_signing_in(visitor: Visit) -> None:
    visitor.sign_in()
    visitor.page.evaluate(
        "for (const name of Object.keys(localStorage)) {"
        " const kept = JSON.parse(localStorage[name]);"
        " localStorage[name] = JSON.stringify({ ...kept, access_token: kept.access_token.slice(0, -9) + 'forgotten' });"
        "}"
    )
    visitor.page.reload()
    expect(visitor.trouble).to_contain_text("You are signed out.Sign in to go on.")
    visitor.complaints.clear()
    visitor.sign_in()
    expect(visitor.trouble).to_have_text("")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("config.js", "config.js is missing.Copy config.example.js"),
        ("supabase.js", "supabase.js is missing.The README"),
    ],
)
def test_a_file_that_is_not_there_yet_is_named(visitor: Visit, file: str, words: str) -> None:
    visitor.page.route(f"**/{file}", lambda route: route.fulfill(status=404))
    visitor.page.reload()
    expect(visitor.trouble).to_contain_text(words)
    visitor.complaints.clear()


def _shots(visitor: Visit, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        visitor.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize(
    "visitor",
    [
        pytest.param({"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}, id="phone"),
        pytest.param({"color_scheme": "dark"}, id="dark"),
        pytest.param({"color_scheme": "light"}, id="light"),
    ],
    indirect=True,
)
def test_the_page_fits_and_can_be_read(visitor: Visit, request: pytest.FixtureRequest) -> None:
    expect(visitor.page.get_by_role("listitem").first).to_be_visible()
    visitor.sign_in()
    visitor.buy("100 credits", "Pay [0-9]")
    expect(visitor.purchases).to_have_count(1)
    visitor.page.route("**/checkout", lambda route: route.abort(), times=1)
    visitor.press("Buy 500 credits")
    expect(visitor.trouble).not_to_have_text("")
    visitor.complaints.clear()
    _shots(visitor, request.node.callspec.id)
    assert survey(visitor.page, "tooWide") == []
    assert survey(visitor.page, "faintText") == []


def _block(beginning: str) -> str:
    (found,) = [
        code for code in re.findall(r"```bash\n(.*?)```", _README, re.DOTALL) if code.lstrip().startswith(beginning)
    ]
    return "\n".join(line.strip() for line in found.splitlines())


def test_the_command_of_the_readme_opens_the_example_and_closes_all_of_it() -> None:
    assert _block("make").splitlines() == ["make parts", "make example"]  # the first is what brought us here
    command = ["make", "--no-print-directory", "example"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as example:
        assert example.stdout is not None
        url = next(line.split()[-1] for line in iter(example.stdout.readline, "") if "The example is open" in line)
        config = httpx.get(f"{url}/config.js").text
        supabase_url, bridge_url = re.findall(r'"(http[^"]*)"', config)
        assert "createClient" in httpx.get(f"{url}/supabase.js").text
        assert [httpx.get(f"{bridge_url}/readyz").status_code, httpx.get(url).status_code] == [200, 200]
        assert httpx.get(f"{supabase_url}/rest/v1/payment_products?select=id&limit=1").json() == [{"id": "credits_100"}]
        os.killpg(example.pid, signal.SIGTERM)
        example.wait(30)
    for address in (url, supabase_url, bridge_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


def test_the_readme_brings_the_missing_files(tmp_path: Path) -> None:
    shutil.copytree(PAGE, tmp_path / "examples" / "shop")
    # the same package, from where it was installed instead of from the network
    package = NODE_MODULES / "@supabase" / "supabase-js"
    code = _block("cd examples/shop").replace("@supabase/supabase-js@2", str(package))
    environment = {**os.environ, "npm_config_ignore_scripts": "true"}
    done = subprocess.run(["bash", "-euc", code], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "examples" / "shop"
    assert (made / "supabase.js").read_bytes() == (package / "dist" / "umd" / "supabase.js").read_bytes()
    assert (made / "config.js").read_text("utf-8").count("https://") == 2


def test_the_settings_of_the_readme_exist() -> None:
    named = {name.removeprefix("PGCHECKOUT_").lower() for name in re.findall(r"PGCHECKOUT_\w+", _block("export"))}
    assert named
    assert named <= set(Settings.model_fields)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", _README):
        assert (REPOSITORY / "examples" / target).exists(), target
