"""`pgcheckout report`, `sessions` and `session`: what they say is what the database knows."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bridge.cli import reading
from bridge.report.charts import bar, columns, spark
from bridge.report.figures import Figures
from bridge.report.page import report_page
from bridge.report.terminal import show_report
from bridge.report.text import cell, masked, plain, without_addresses
from tests.cli.past import Past, day
from tests.support.command import Done
from tests.support.database import Database

Ask = Callable[..., Done]


def said(done: Done) -> str:
    """What a command showed, with single spaces."""
    assert (done.code, done.err) == (0, "")
    return " ".join(done.out.split())


class Page(HTMLParser):
    """Tags, and text by line, of a page whose tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "!doctype"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data.strip()}" if data.strip() else ""


@pytest.mark.usefixtures("past")
class TestReport:
    def test_amounts_are_in_major_units_of_each_currency(self, ask: Ask) -> None:
        text = said(ask("report"))
        assert "made 8 paid 5 (62.5 %) not paid 2 open, 1 failed" in text
        assert "revenue 1,200 JPY, 7,500.00 NGN, 37.00 USD refunded 2.00 USD" in text
        assert re.search(r"paystack 1 1 100\.0 % 7,500\.00 NGN - 9\.0 min", text)
        # each day of the week is there, and a bar is as long as its share of the best day
        lines = [line for line in ask("report").out.splitlines() if re.match(r" (Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", line)]
        assert len(lines) == 8
        assert f"{'█' * 10} 20.00 USD" in text
        assert f"{'█' * 6} 12.00 USD" in text
        assert f"{'█' * 2}▌ 5.00 USD" in text

    def test_many_days_are_curves(self, ask: Ask) -> None:
        text = ask("report", "--days", "60").out
        (curve,) = re.findall(rf"{day(22)}|Revenue in USD.*\n.*", text)
        assert sum(curve.count(sign) for sign in "▁▂▃▄▅▆▇█·") == 61
        assert re.findall("[▁▂▃▄▅▆▇█]", curve) == ["▃", "▅", "█"]

    def test_json_is_the_answer_of_the_database(self, db: Database, ask: Ask) -> None:
        known = db.as_service().rpc("payment_report", p_days=30)
        answer = json.loads(ask("report", "--days", "30", "--json").out)
        assert {**answer, "from": "", "to": ""} == {**known, "from": "", "to": ""}

    def test_csv_has_a_figure_per_line_in_minor_units(self, ask: Ask) -> None:
        rows = list(csv.DictReader(io.StringIO(ask("report", "--csv").out)))
        found: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for row in rows:
            found[row["section"] + row["name"]][row["measure"], row["currency"]] = row["value"]
        assert found["totals"]["revenue", "USD"] == "3700"
        assert found["totals"]["refunds", "USD"] == "200"
        assert found[f"by_day{day(2)}"]["revenue", "JPY"] == "1200"
        assert found["by_productpro_month"]["created", ""] == "2"
        assert found["by_providerpaystack"]["median_minutes", ""] in ("9", "9.0")
        parts = sum(int(row["value"]) for row in rows if row["section"] == "by_day" and row["measure"] == "created")
        assert parts == int(found["totals"]["created", ""])

    def test_html_is_one_file_that_needs_nothing_else(self, ask: Ask, tmp_path: Path) -> None:
        assert said(ask("report", "--html", "report.html")) == "Written to report.html."
        text = (tmp_path / "report.html").read_text("utf-8")
        page = Page(text)
        assert "Revenue 7,500.00 NGN" in page.text
        assert "pro_month 2 1 50.0 % 12.00 USD - 4.0 min" in page.text
        names = {tag for tag, _ in page.tags}
        assert not names & {"script", "link", "img", "iframe", "object"}
        assert not [value for _, given in page.tags for name in ("src", "href", "onload") if (value := given.get(name))]
        assert "url(" not in text
        assert "@import" not in text
        # a column for each day with sales, as high as its share of the best day
        heights = re.findall(r'height="([\d.]+)"><title>\w+ \d+ \w+: ([\d.,]+) USD', text)
        assert [(float(height), amount) for height, amount in heights] == [
            (25.0, "5.00"), (60.0, "12.00"), (100.0, "20.00"),
        ]  # fmt: skip
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"]

    def test_names_are_no_markup(self, db: Database) -> None:
        report = db.as_service().rpc("payment_report")
        report["by_product"][0]["product"] = "<script>alert(1)</script>[red]\x1b[31m"
        assert "<script" not in report_page(Figures(report))
        console = Console(record=True, width=200, file=io.StringIO())
        show_report(console, Figures(report))
        assert "[red]�[31m" in console.export_text()

    def test_a_file_that_cannot_be_written_is_one_sentence(self, ask: Ask) -> None:
        done = ask("report", "--html", "nowhere/report.html")
        assert (done.code, len(done.err.splitlines())) == (1, 1)
        assert "nowhere/report.html cannot be written: No such file or directory." in done.err

    def test_a_device_stays_what_it_is(self, ask: Ask, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with ThreadPoolExecutor() as other:
            read = other.submit((tmp_path / "pipe").read_text, "utf-8")
            assert ask("report", "--html", "pipe").code == 0
            assert read.result(30).startswith("<!doctype html>")
        assert (tmp_path / "pipe").is_fifo()

    def test_one_form_at_a_time(self, ask: Ask) -> None:
        assert ask("report", "--json", "--csv").code == 2


def test_a_shop_without_sales_has_a_report_too(ask: Ask, tmp_path: Path) -> None:
    assert "made 0" in said(ask("report"))
    assert "No session was made in this time." in ask("report").out
    ask("report", "--html", "r.html")
    assert "No session was made in this time." in Page((tmp_path / "r.html").read_text("utf-8")).text
    assert said(ask("sessions")) == "No such sessions."
    assert json.loads(ask("sessions", "--json").out) == []


class TestSessions:
    def listed(self, ask: Ask, *words: str) -> list[str]:
        return [row["session_id"] for row in json.loads(ask("sessions", "--json", *words).out)]

    def test_they_are_found_by_what_is_known_of_them(self, past: Past, ask: Ask, db: Database) -> None:
        everything = self.listed(ask)
        assert everything == sorted(everything, reverse=True)
        assert len(everything) == 8
        assert self.listed(ask, "--status", "failed") == [str(past.failed)]
        assert self.listed(ask, "--review") == [str(past.undelivered)]
        assert len(self.listed(ask, "--user", str(past.buyer))) == 2
        (nairas,) = self.listed(ask, "--provider", "paystack")
        assert db.session(nairas)["currency"] == "NGN"
        assert self.listed(ask, "--since", "12h") == [str(past.open), str(past.undelivered)]
        assert self.listed(ask, "--user", str(past.buyer), "--status", "partially_refunded") == [str(past.refunded)]
        assert self.listed(ask, "--provider", "nobody") == []

    def test_many_come_in_batches_and_none_twice(self, past: Past, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        everything = self.listed(ask)
        monkeypatch.setattr(reading, "_BATCH", 3)
        assert self.listed(ask) == everything
        assert self.listed(ask, "--limit", "4") == everything[:4]
        assert self.listed(ask, "--limit", "8") == everything
        assert str(past.open) in everything

    def test_people_see_what_to_do_next_and_no_address(self, past: Past, ask: Ask) -> None:
        text = said(ask("sessions", "--limit", "4"))
        assert f"{past.undelivered} completed credits_500, stripe, user" in text
        assert "review: fulfilment_failed" in text
        assert "b***@example.test" in text
        assert "bob" not in text
        assert "4 shown; there are more" in text
        assert "more" not in said(ask("sessions", "--limit", "8"))

    def test_csv_has_the_columns_of_the_function(self, past: Past, ask: Ask, db: Database) -> None:
        db.sql(
            "update payment_checkout_sessions set email = '=HYPERLINK(1)@example.test' where id = %s", past.undelivered
        )
        rows = list(csv.DictReader(io.StringIO(ask("sessions", "--csv").out)))
        known = db.as_service().rpc("list_checkout_sessions")
        assert list(rows[0]) == list(known[0])
        by_id = {row["session_id"]: row for row in rows}
        assert by_id[str(past.refunded)]["email"] == "ann@example.test"
        assert by_id[str(past.refunded)]["refunded_amount"] == "200"
        assert by_id[str(past.undelivered)]["email"] == "'=HYPERLINK(1)@example.test"


class TestSession:
    def story(self, ask: Ask, name: object) -> list[tuple[str, str]]:
        told = json.loads(ask("session", str(name), "--json").out)
        return [(moment["kind"], moment["title"]) for moment in told["story"]]

    def test_the_whole_story_in_order_of_time(self, past: Past, ask: Ask) -> None:
        assert self.story(ask, past.refunded) == [
            ("session", "made for credits_100"),
            ("attempt", "page for stripe"),
            ("webhook", "checkout.completed"),
            ("capture", "money settled"),
            ("state", "pending -> completed"),
            ("credits", "purchase"),
            ("invoice", f"invoice INV-{day(0)[:4]}-1"),
            ("notification", "receipt queued"),
            ("refund", "refund succeeded"),
            ("state", "completed -> partially_refunded"),
            ("credits", "clawback"),
            ("invoice", f"credit_note CN-{day(0)[:4]}-1"),
            ("notification", "refund queued"),
        ]
        assert self.story(ask, past.failed) == [
            ("session", "made for credits_100"),
            ("attempt", "page for stripe"),
            ("attempt", "page for stripe"),
            ("state", "pending -> failed"),
        ]

    def test_what_was_told_and_what_went_wrong_meanwhile(self, past: Past, ask: Ask, db: Database) -> None:
        service = db.as_service()
        for letter in service.rpc("claim_notifications", p_limit=50):
            service.rpc("finish_notification", p_id=letter["id"], p_error=None)
        for provider in ("stripe", "paystack"):
            service.rpc("report_trouble", p_kind="signature_failures", p_subject=provider, p_count=500)
        service.rpc("watch_payments")
        story = self.story(ask, past.open)
        assert story == [("session", "made for credits_100"), ("alert", "signature_failures stripe")]
        assert ("notification", "receipt sent") in self.story(ask, past.refunded)
        assert ("alert", "signature_failures stripe") not in self.story(ask, past.refunded)  # it was over by then
        assert ("state", "pending -> completed") in self.story(ask, past.undelivered)
        service.rpc("retry_fulfilment", p_session_id=past.undelivered)
        assert self.story(ask, past.undelivered)[-2:] == [("state", "fulfilment_retried"), ("credits", "purchase")]

    def test_people_see_amounts_reasons_and_no_address(self, past: Past, ask: Ask) -> None:
        text = said(ask("session", str(past.refunded)))
        assert text.startswith(f"Session {past.refunded} status partially_refunded fulfilment status fulfilled")
        assert "amount 5.00 USD, 2.00 USD given back" in text
        assert "credit_note CN-" in text
        assert "-2.00 USD" in text
        assert "reason asked by a***@example.test" in text
        assert "ann@" not in text
        failed = said(ask("session", str(past.failed)))
        assert "error code card_declined, error message Declined." in failed

    def test_a_reference_is_as_good_as_an_id(self, past: Past, ask: Ask, db: Database) -> None:
        (attempt,) = db.sql("select reference from payments.attempts where session_id = %s", past.refunded)
        assert self.story(ask, attempt["reference"]) == self.story(ask, past.refunded)
        for unknown in (uuid.uuid4(), "0" * 32, "nonsense", "a-b"):
            done = ask("session", str(unknown))
            assert (done.code, len(done.err.splitlines())) == (1, 1)
            assert "No checkout session" in done.err or "no checkout session" in done.err

    def test_it_outlives_its_session(self, past: Past, ask: Ask, db: Database) -> None:
        db.sql("delete from auth.users where id = %s", past.buyer)
        story = self.story(ask, past.refunded)
        assert {kind for kind, _ in story} == {
            "attempt", "webhook", "capture", "state", "credits", "refund", "invoice", "notification"
        }  # fmt: skip
        assert "The session itself was deleted" in said(ask("session", str(past.refunded)))

    def test_it_holds_no_secret_and_no_payload(self, past: Past, ask: Ask, db: Database) -> None:
        db.sql('update payment_checkout_sessions set metadata = \'{"note": "secret-note"}\'')
        db.sql('update payments.webhook_events set payload = \'{"card": "4242424242424242"}\'')
        text = ask("session", str(past.refunded), "--json").out
        for private in ("secret-note", "4242", "https://", "checkout_url", "payload"):
            assert private not in text


@pytest.mark.parametrize(
    ("value", "largest", "drawn"),
    [(0, 10, ""), (10, 10, "█" * 10), (5, 10, "█" * 5), (0.01, 10, "▏"), (1, 0, ""), (99, 10, "█" * 10)],
)
def test_a_bar_is_as_long_as_its_share(value: float, largest: float, drawn: str) -> None:
    assert bar(value, largest) == drawn


def test_charts_begin_at_zero_and_leave_out_what_is_not_known() -> None:
    assert spark([0, None, 1, 5, 8], 8) == "··▂▆█"
    assert spark([None, 0], 0) == "··"
    drawn: list[Any] = [(column.x, column.y, column.height) for column in columns([None, 4, 0, 8], "abcd", 8)]
    assert drawn == [(110, 50, 50), (310, 0, 100)]


def test_text_of_strangers_does_no_harm() -> None:
    assert plain("\x1b[31mred\x07\u202e") == "�[31mred��"
    assert masked("ann.smith@example.test") == "a***@example.test"
    assert without_addresses("to ann@example.test, not to bob+x@a.b.example!") == (
        "to a***@example.test, not to b***@a.b.example!"
    )
    assert [cell(value) for value in ("=1", "@x", "-1", -1, "a=1", None)] == ["'=1", "'@x", "'-1", -1, "a=1", None]
