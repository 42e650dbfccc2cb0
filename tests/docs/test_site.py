"""The documentation as a site: complete, with links that lead somewhere, readable everywhere, and true."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, Page, Request
from playwright.sync_api import TimeoutError as NotYet

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate
from tests.support.database import REPOSITORY, Database
from tests.support.reference import openapi, reference_pages
from tests.support.site import CONFIGURATION, SiteError, build_site, sources

_TO_OTHERS = re.compile(r"\]\((https?://[^)]+)\)")
_LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


@pytest.fixture(scope="module")
def generated(server: LocalPostgres) -> Iterator[dict[str, str]]:
    database_url = server.create_look_alike("reference")
    migrate(database_url)
    yield reference_pages(database_url)
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as connection:
        connection.execute("drop database reference with (force)")


@pytest.fixture(scope="module")
def site(generated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building it fails on any link or anchor that leads nowhere."""
    return build_site(tmp_path_factory.mktemp("docs") / "build", sources(), generated)


def listed(navigation: object) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    elif isinstance(navigation, list | dict):
        for entry in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from listed(entry)


def test_the_navigation_leads_to_every_page(generated: dict[str, str]) -> None:
    navigation = tomllib.loads((CONFIGURATION / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    pages = [*sources(), *(page for page in generated if page.endswith(".md"))]
    assert sorted(listed(navigation)) == sorted(pages)


class _Loads(HTMLParser):
    """What a page makes the browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name == _LOADING.get(tag)]


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path, generated: dict[str, str]) -> None:
    for page in (*sources(), *generated):
        file = site / page.replace(".md", ".html")
        loads = _Loads()
        loads.feed(file.read_text("utf-8"))
        for address in loads.addresses:
            assert not urlsplit(address).netloc, f"{page}: {address}"
            assert (file.parent / urlsplit(address).path).exists(), f"{page}: {address}"


def test_every_diagram_is_a_picture_with_words(site: Path) -> None:
    drawn = 0
    for page, source in sources().items():
        diagrams = len(re.findall(r"^```mermaid$", source.read_text("utf-8"), re.MULTILINE))
        pictures = re.findall(
            r'<img src="([^"]+\.svg)" width="\d+" height="\d+" alt="[^"]{20,}"',
            (site / page.replace(".md", ".html")).read_text("utf-8"),
        )
        assert len(pictures) == diagrams, page
        drawn += diagrams
    assert drawn >= 5


def test_links_out_of_the_documentation_lead_to_the_repository(site: Path) -> None:
    shown = (site / "security.html").read_text("utf-8")
    assert '"https://github.com/pgcheckout/pgcheckout/blob/main/tests/sql/test_states.py"' in shown
    assert '"states.html#review"' in shown


def test_what_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    page = tmp_path / "index.md"
    page.write_text(
        "# Home\n\n[a](other.md#nothing) [b](gone.md) [c](other.md#something)\n\n"
        "```mermaid\nflowchart LR\n    a --> \n```\n\n```\n[code](is-no-link.md)\n```\n"
    )
    other = tmp_path / "other.md"
    other.write_text("# Other\n\n## Something\n")
    with pytest.raises(SiteError) as caught:
        build_site(tmp_path / "build", {"index.md": page, "other.md": other}, {})
    told = str(caught.value)
    assert "index.md: nothing is at gone.md" in told
    assert "index.md: a diagram has a mistake" in told
    assert "anchor does not exist" in told
    assert "2 issues found" in told  # the anchor, and what was gone before


def test_links_to_other_sites_are_well_formed() -> None:
    found = [
        (page, address) for page, file in sources().items() for address in _TO_OTHERS.findall(file.read_text("utf-8"))
    ]
    assert found
    for page, address in found:
        parts = urlsplit(address)
        assert parts.scheme == "https", f"{page}: {address}"
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), f"{page}: {address}"
        assert " " not in address, f"{page}: {address}"


def test_the_reference_has_every_function_with_its_callers(db: Database, generated: dict[str, str]) -> None:
    users, service = generated["reference/functions.md"].split("## For the service only")
    for for_users, text in ((True, users), (False, service)):
        rows = db.sql(
            "select distinct proname from pg_proc"
            " where pronamespace = 'public'::regnamespace"
            " and has_function_privilege('authenticated', oid, 'execute') = %s",
            for_users,
        )
        assert rows
        assert {row["proname"] for row in rows} == set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert "nobody but the database" not in users + service
    described = re.findall(r"\n```\n\n(.+)\n\nCalled by: (.+)\.", users + service)
    assert len(described) == len(re.findall(r"^### ", users + service, re.MULTILINE))


def test_the_reference_has_every_table_and_column(db: Database, generated: dict[str, str]) -> None:
    text = generated["reference/tables.md"]
    parts = dict(zip(*[iter(re.split(r"^### (\w+)$", text, flags=re.MULTILINE)[1:])] * 2, strict=True))
    columns = db.sql(
        "select c.relname, a.attname from pg_attribute as a inner join pg_class as c on a.attrelid = c.oid"
        " where c.relnamespace in ('public'::regnamespace, 'payments'::regnamespace) and c.relkind in ('r', 'p', 'v')"
        " and a.attnum > 0 and not a.attisdropped"
    )
    assert {row["relname"] for row in columns} == set(parts)
    for row in columns:
        assert f"| `{row['attname']}` |" in parts[row["relname"]], row
    assert "Granted to anybody (`anon`): read" in parts["payment_products"]
    assert "Granted to nobody" in parts["captures"]


def test_the_reference_has_every_route(generated: dict[str, str]) -> None:
    titles = set(re.findall(r"^## ([A-Z]+ /\S+)$", generated["reference/http.md"], re.MULTILINE))
    described = openapi()["paths"]
    assert titles == {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert "POST /verify" in titles


def test_every_proof_in_the_threat_table_is_a_test() -> None:
    page = REPOSITORY / "docs" / "security.md"
    text = page.read_text("utf-8")
    rows = [
        line for line in text.partition("## Threats")[2].partition("## What is left")[0].splitlines() if "|" in line
    ]
    threats = [row for row in rows if not row.startswith(("| threat |", "|---"))]
    assert len(threats) >= 30
    for row in threats:
        proofs = re.findall(r"\[`(test_\w+)`\]\((\S+?\.py)\)", row.split("|")[3])
        assert proofs, row
        for name, file in proofs:
            assert re.search(rf"def {name}\(", (page.parent / file).read_text("utf-8")), f"{file} has no {name}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
        thread.join()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_readable_on_a_phone_and_stay_at_home(browser: Browser, address: str, scheme: str) -> None:
    complaints: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(request.url)

    page = browser.new_page(
        viewport={"width": 390, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.on("request", note)
    page.on("console", lambda message: complaints.append(message.text))
    for name in ("index", "getting-started", "states", "security", "comparison", "reference/tables", "reference/http"):
        page.goto(f"{address}/{name}.html")
        assert page.evaluate("document.body.dataset.mdColorScheme") == ("slate" if scheme == "dark" else "default")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0, name
    assert complaints == []
    search(page)
    page.close()


def search(page: Page) -> None:
    """The reader's own search finds a function by its name."""
    box = page.get_by_role("combobox", name="Search")
    for _ in range(15):  # its script comes when it comes, and a key that was pressed before is lost
        page.keyboard.press("Control+k")
        with contextlib.suppress(NotYet):
            box.wait_for(timeout=1000)
            break
    box.fill("quote_checkout")
    page.get_by_role("option").filter(has_text="SQL functions").first.wait_for(timeout=15_000)
