"""What pages say is what the database knows."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from bridge.api.dashboard import pages
from bridge.api.dashboard.reasons import REASONS
from bridge.report import recent
from tests.cli.past import Past, day
from tests.dashboard.conftest import TOKEN, Operator, text_of
from tests.support.bridge import running_bridge, wait_until
from tests.support.database import REPOSITORY, Database


class Tomorrow(datetime):
    """A clock that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=1)


def test_an_empty_shop_has_a_dashboard_too(ann: Operator) -> None:
    said = ann.read()
    assert "0 to review" in said
    assert "No session was made in this time." in said
    assert "No worker was seen" in said
    assert "Nothing waits for a person." in ann.read("/reviews")
    assert "All were applied." in ann.read("/dead-letters")
    assert "No such sessions." in ann.read("/sessions")


@pytest.mark.usefixtures("past")
def test_the_overview_tells_how_the_shop_does(ann: Operator) -> None:
    said = ann.read()
    assert "1 to review 1 paid, not fulfilled" in said
    # today: one that was paid and not delivered, one open
    assert "Created 2 100.0 % Opened 1 50.0 % Paid 1 50.0 % Fulfilled 0 0.0 %" in said
    assert "Created 8 6 opened a page Paid 5 62.5 % of those created" in said
    assert "Revenue 7,500.00 NGN" in said
    assert "Revenue 37.00 USD 2.00 USD of it refunded" in said
    assert f"{day(3)} 2 2 2 2 100.0 % 0.0 % 0 JPY 7,500.00 NGN 5.00 USD" in said
    assert "paystack 1 1 100.0 % 0.0 % 7,500.00 NGN - 9.0 min" in said
    assert "manga 1 1 100.0 % 0.0 % 1,200 JPY - 4.0 min" in said


@pytest.mark.usefixtures("past")
def test_queues_and_workers_are_shown_with_their_ages(ann: Operator, db: Database) -> None:
    db.sql(
        "insert into payments.heartbeats values ('alive', now() - interval '5 seconds'),"
        " ('dead', now() - interval '3 hours')"
    )
    said = ann.read()
    assert re.search(r"alive [5-9] s ago", said)
    assert "dead 3 h ago: silent" in said
    assert "1 silent workers" in said
    assert re.search(r"Providers to ask \d+ [23] d", said)


@pytest.mark.parametrize(
    ("query", "status"), [("?days=30", 200), ("?days=90", 200), ("?days=8", 422), ("?days=x", 422)]
)
@pytest.mark.usefixtures("past")
def test_other_periods(ann: Operator, query: str, status: int) -> None:
    said = ann.read(query, status)
    assert ("Created 8" in said) == (status == 200)
    assert ("days: " in said) == (status == 422)


@pytest.mark.usefixtures("past")
def test_a_slow_report_keeps_no_page_waiting(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "PATIENCE_SECONDS", 0.0)
    with running_bridge(db, admin_token=TOKEN) as bridge:
        bob = Operator(bridge.http)
        bob.sign_in()
        html = bob.get().text
        assert "are being counted" in html
        assert '<meta http-equiv="refresh"' in html
        wait_until(lambda: "Created 8" in bob.read())
        assert '<meta http-equiv="refresh"' not in bob.get().text


def test_the_report_is_made_anew_when_it_is_old(db: Database, past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "REST", 1e9)
    with running_bridge(db, admin_token=TOKEN) as bridge:
        bob = Operator(bridge.http)
        bob.sign_in()
        assert "Created 8" in bob.read()
        db.new_session(past.buyer, "credits_500", p_subject="new")
        assert "Created 8" in bob.read()
        monkeypatch.setattr(recent, "REST", 0)
        assert "Created 9" in bob.read()


def test_a_report_that_cannot_be_made_is_not_tried_all_the_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "REST", 1e9)
    db.sql("alter function payments.report_lines rename to report_lines_away")
    with running_bridge(db, admin_token=TOKEN) as bridge:
        bob = Operator(bridge.http)
        bob.sign_in()
        wait_until(lambda: "could not be counted" in bob.read())
        asked = bridge.http.get("/metrics").text.count('function="payment_report"')
        db.sql("alter function payments.report_lines_away rename to report_lines")
        assert "could not be counted" in bob.read()
        assert bridge.http.get("/metrics").text.count('function="payment_report"') == asked
        monkeypatch.setattr(recent, "REST", 0)
        wait_until(lambda: "could not be counted" not in bob.read())


@pytest.mark.usefixtures("past")
def test_yesterdays_figures_are_not_called_todays(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "REST", 1e9)
    with running_bridge(db, admin_token=TOKEN) as bridge:
        bob = Operator(bridge.http)
        bob.sign_in()
        wait_until(lambda: "Today Created 2" in bob.read())
        monkeypatch.setattr(pages, "datetime", Tomorrow)
        assert "Today" not in bob.read()
        assert f"{day(0)} Created 2" in bob.read()


def test_sessions_newest_first_by_what_is_asked(ann: Operator, past: Past) -> None:
    everything = re.findall(r"/dashboard/sessions/([0-9a-f-]{36})", ann.get("/sessions").text)
    assert len(everything) == 8
    assert everything == sorted(everything, reverse=True)
    assert re.findall(r"/dashboard/sessions/([0-9a-f-]{36})", ann.get("/sessions?status=failed").text) == [
        str(past.failed)
    ]
    assert len(re.findall(r"<code>", ann.get("/sessions?provider=paystack").text)) == 1
    assert len(re.findall(r"<code>", ann.get("/sessions?since=1").text)) < 8
    assert len(re.findall(r"<code>", ann.get(f"/sessions?since=&user={past.buyer}").text)) == 2
    assert "the search goes back 30 days" in ann.read("/sessions?provider=paystack&since=")
    assert "goes back" not in ann.read("/sessions?provider=paystack&since=30")
    for wrong in ("status=x", "since=2", "user=x", "before=x"):
        assert "That did not work" in ann.read(f"/sessions?{wrong}", 422)


def test_older_sessions_are_on_the_next_page(ann: Operator, db: Database) -> None:
    buyer = db.new_user()
    made = [str(db.new_session(buyer, p_subject=f"number {n}")) for n in range(53)]
    first = ann.get("/sessions?status=pending").text
    older = re.search(r'href="/dashboard(/sessions\?[^"]*before=[^"]+)"', first)
    assert older
    second = ann.get(older[1].replace("&amp;", "&")).text
    shown = [re.findall(r"/dashboard/sessions/([0-9a-f-]{36})", html) for html in (first, second)]
    assert [len(ids) for ids in shown] == [50, 3]
    assert [*shown[0], *shown[1]] == made[::-1]
    assert "Older" not in second


def test_a_session_tells_its_story(ann: Operator, past: Past) -> None:
    said = ann.read(f"/sessions/{past.refunded}")
    for moment in (
        "made for credits_100 5.00 USD", "page for stripe", "money settled 5.00 USD", "pending -> completed",
        "purchase +100", "invoice INV-", "refund succeeded 2.00 USD", "clawback -40", "email a***@example.test",
    ):  # fmt: skip
        assert moment in said, moment
    assert "ann@example.test" not in ann.get(f"/sessions/{past.refunded}").text


def test_a_session_that_is_not_there(ann: Operator) -> None:
    assert "There is no checkout session" in ann.read(f"/sessions/{uuid.uuid4()}", 404)
    assert "session_id" in ann.read("/sessions/nonsense", 422)
    assert "Not Found" in ann.read("/nothing/here", 404)


def test_a_deleted_session_keeps_its_story(ann: Operator, db: Database, past: Past) -> None:
    db.sql("delete from auth.users where id = %s", past.buyer)
    said = ann.read(f"/sessions/{past.refunded}")
    assert "The session itself was deleted" in said
    assert "money settled 5.00 USD" in said
    assert "Refund" not in said


def test_finding_by_id_reference_and_user(ann: Operator, db: Database, past: Past) -> None:
    reference = db.value(
        "select reference from payments.attempts where session_id = %s order by number desc limit 1", past.refunded
    )
    assert ann.get(f"/find?q={past.refunded}").url.path.endswith(str(past.refunded))
    assert ann.get(f"/find?q=%20{reference}%20").url.path.endswith(str(past.refunded))
    assert ann.get(f"/find?q={past.buyer}").url.params["user"] == str(past.buyer)
    assert "Nothing here has this reference" in ann.read("/find?q=deadbeef", 404)
    assert "neither an id nor a reference" in ann.read("/find?q=a-b", 422)


def test_what_strangers_wrote_is_text(ann: Operator, db: Database) -> None:
    evil = "<script>alert(1)</script>"
    session_id = db.new_session(p_subject=evil)
    db.as_service().rpc("add_session_note", p_session_id=session_id, p_note=evil)
    db.as_service().rpc(
        "record_webhook_failure", p_provider="stripe", p_error=evil, p_retryable=False,
        p_event={"id": f'"{evil}', "type": evil, "payload": {"email": "secret@example.test"}},
    )  # fmt: skip
    for path in (f"/sessions/{session_id}", "/dead-letters", f"/find?q={evil}-"):
        answer = ann.http.get(f"/dashboard{path}")
        assert evil not in answer.text
        assert "secret@example.test" not in answer.text
    assert "&lt;script&gt;" in ann.get("/dead-letters").text


def test_a_subject_that_looks_like_a_time_is_a_subject(ann: Operator, db: Database) -> None:
    session_id = db.new_session(p_subject="aaaa-bbbbbTccccccccc")
    assert "aaaa-bbbbbTccccccccc" in ann.read(f"/sessions/{session_id}")


def test_of_a_very_long_story_the_end_is_shown(ann: Operator, db: Database) -> None:
    session_id = db.new_session()
    for n in range(510):
        db.as_service().rpc("add_session_note", p_session_id=session_id, p_note=f"number {n}.")
    said = ann.read(f"/sessions/{session_id}")
    assert "11 earlier moments are not shown" in said
    assert "number 509." in said
    assert "number 9." not in said


def test_older_reviews_are_on_the_next_page(ann: Operator, db: Database) -> None:
    buyer = db.new_user("buyer@example.test")
    for n in range(21):
        db.new_session(buyer, p_subject=f"number {n}", p_email="buyer@example.test")
    db.sql("update public.payment_checkout_sessions set review_reason = 'odd_reason'")
    html = ann.get("/reviews").text
    older = re.search(r'href="/dashboard(/reviews\?before=[^"]+)"', html)
    assert older
    assert (html.count("<article"), ann.get(older[1]).text.count("<article")) == (20, 1)
    assert "odd reason . To do: look at the session's story." in text_of(html)
    assert "b***@example.test" in text_of(html)
    assert "buyer@example.test" not in html + ann.get("/sessions").text


def test_every_reason_for_review_is_explained_as_in_the_docs(db: Database) -> None:
    section = Path(REPOSITORY / "docs/states.md").read_text("utf-8").split("## Review")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    assert {name: (what, what_to_do.replace("`", "")) for name, what, what_to_do in rows} == REASONS
    raised = db.value("select string_agg(prosrc, '') from pg_proc where prosrc ~ 'payments'")
    assert all(f"'{name}'" in raised for name in REASONS)
