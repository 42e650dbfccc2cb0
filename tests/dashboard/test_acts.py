"""What an operator does is done once, through the engine's doors, and stands in the audit trail with their name."""

from __future__ import annotations

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridge.simulators.stripe import Fault, StripeSimulator
from tests.cli.past import Past
from tests.dashboard.conftest import Operator, text_of
from tests.support.bridge import Bridge, StripeDesk
from tests.support.database import Database


def notes(db: Database, session_id: object) -> list[tuple[str, str]]:
    rows = db.sql(
        "select reason, detail from payments.session_events"
        " where session_id = %s and source = 'admin' and reason in ('note', 'reviewed') order by id",
        session_id,
    )
    return [(row["reason"], row["detail"]) for row in rows]


def rows_of(db: Database, session_id: str) -> list[tuple[int, str, str]]:
    found = db.sql("select amount, status, reason from public.payment_refunds where session_id = %s", session_id)
    return [(row["amount"], row["status"], row["reason"]) for row in found]


def held_by(ann: Operator, page: str) -> dict[str, str]:
    """What the refund form of a page holds, besides the amount."""
    html = ann.get(page).text
    return {name: re.findall(rf'name="{name}" value="(\w+)"', html)[0] for name in ("csrf", "seen")}


@pytest.fixture
def sale(office: Bridge, stripe: StripeSimulator) -> str:
    """A paid purchase of 5.00 USD."""
    buyer = office.buyer()
    session_id: str = buyer.checkout().json()["session_id"]
    stripe.pay(office.attempt(session_id)["provider_session_id"])
    assert buyer.verify(session_id=session_id).json()["success"]
    return session_id


def given_back(db: Database, stripe: StripeSimulator, session_id: str) -> list[int]:
    """What the provider has given back of a session's payment."""
    payment = db.session(session_id)["provider_payment_id"]
    things = stripe.objects.values()
    return [thing["amount"] for thing in things if thing["object"] == "refund" and thing["payment_intent"] == payment]


class TestRetry:
    def test_delivers_what_could_not_be_delivered(self, ann: Operator, db: Database, past: Past) -> None:
        said = text_of(ann.send("/reviews", f"/sessions/{past.undelivered}/retry").text)
        assert "Done. Tried again: fulfilled." in said
        assert "Nothing waits for a person." in said  # back where the form was
        assert db.state(past.undelivered)[1] == "fulfilled"
        assert notes(db, past.undelivered) == [("note", "Ann: retry fulfilment")]

    def test_says_when_it_is_refused_again(self, ann: Operator, db: Database, past: Past) -> None:
        db.break_fulfilment("credits")
        page = f"/sessions/{past.undelivered}"
        said = text_of(ann.send(page, f"{page}/retry").text)
        assert "Not done. Tried again, and refused again" in said
        assert said.count("P0001 The shelf is empty.") == 2
        assert "Tried again" not in ann.read(page)  # told once

    def test_says_when_what_was_refunded_cannot_be_taken_back(self, ann: Operator, db: Database, sale: str) -> None:
        handler = "update payments.fulfilment_handlers set reverse_function = %s where kind = 'credits'"
        db.sql(handler, None)
        service = db.as_service()
        service.rpc("refund_checkout_session", p_session_id=sale, p_provider_refund_id="re_1", p_amount=500)
        assert "reversal_failed" in db.session(sale)["review_reason"]
        said = text_of(ann.send(f"/sessions/{sale}", f"/sessions/{sale}/retry").text)
        assert "Not done. Tried again, and refused again" in said
        db.sql(handler, "payments.reverse_credits")
        said = text_of(ann.send(f"/sessions/{sale}", f"/sessions/{sale}/retry").text)
        assert "Done. Tried again: reversed." in said

    def test_twice_at_once_delivers_once(self, ann: Operator, db: Database, past: Past) -> None:
        page = f"/sessions/{past.undelivered}"
        html = ann.get(page).text
        (csrf,) = set(re.findall(r'name="csrf" value="(\w+)"', html))
        answers = [ann.http.post(f"/dashboard{page}/retry", data={"csrf": csrf}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 409]
        assert "Nothing to retry" in answers[1].text
        entries = db.sql("select 1 from public.payment_credit_entries where source = %s", str(past.undelivered))
        assert len(entries) == 1


class TestRefund:
    def test_gives_all_of_it_back(self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str) -> None:
        page = f"/sessions/{sale}"
        said = text_of(ann.send(page, f"{page}/refund", note="asked for it").text)
        assert "Done. 5.00 USD. Stripe: succeeded." in said
        assert given_back(db, stripe, sale) == [500]
        assert db.state(uuid.UUID(sale))[0] == "refunded"
        assert notes(db, sale) == [("note", "Ann: orders a refund of 5.00 USD, asked for it")]
        assert rows_of(db, sale) == [(500, "succeeded", "asked for it")]
        assert "Give the money back" not in ann.read(page)

    def test_gives_a_part_back_once_however_often_it_is_sent(
        self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str
    ) -> None:
        page = f"/sessions/{sale}"
        held = held_by(ann, page)
        first, again = (ann.http.post(f"/dashboard{page}/refund", data=held | {"amount": "1.25"}) for _ in range(2))
        assert (first.status_code, again.status_code) == (200, 409)
        assert "Money was given back since you looked; nothing was sent." in again.text
        assert given_back(db, stripe, sale) == [125]
        # another look at the page is another order
        ann.send(page, f"{page}/refund", amount="1.25")
        assert given_back(db, stripe, sale) == [125, 125]

    def test_two_looks_at_a_slow_page_give_once(
        self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str
    ) -> None:
        """The provider takes its time; meanwhile the page is opened again, and its form sent."""
        page = f"/sessions/{sale}"
        forms = [held_by(ann, page) | {"amount": "1.25"} for _ in range(2)]
        stripe.faults.extend([Fault(latency=0.3)] * 6)
        with ThreadPoolExecutor(2) as clicks:
            codes = list(
                clicks.map(lambda form: ann.http.post(f"/dashboard{page}/refund", data=form).status_code, forms)
            )
        assert sorted(codes) == [200, 409]
        assert given_back(db, stripe, sale) == [125]

    def test_a_corrected_amount_is_another_order(
        self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str
    ) -> None:
        page = f"/sessions/{sale}"
        held = held_by(ann, page)
        codes = [
            ann.http.post(f"/dashboard{page}/refund", data=held | {"amount": amount}).status_code
            for amount in ("5.01", "5.00")
        ]
        assert codes == [422, 200]
        assert given_back(db, stripe, sale) == [500]

    def test_a_second_payment_is_not_given_back_from_here(
        self, ann: Operator, db: Database, office: Bridge, sale: str
    ) -> None:
        """A refund would be of the first payment, and take the goods."""
        db.apply(office.attempt(sale), provider_payment_id="pi_second")
        said = ann.read("/reviews")
        assert "duplicate payment" in said
        assert "give the second one back in its provider's portal" in said
        assert "Give the money back" not in said

    def test_of_what_was_overpaid_the_difference_is_proposed(
        self, ann: Operator, db: Database, stripe: StripeSimulator
    ) -> None:
        session_id = db.new_session()
        db.apply(db.open_attempt(session_id), amount=600)
        html = ann.get("/reviews").text
        assert 'name="amount" value="1.00"' in html
        assert "of which 6.00 USD are left" in text_of(html)

    def test_one_that_the_provider_failed_is_not_done(
        self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str
    ) -> None:
        page = f"/sessions/{sale}"
        failed = {"id": "re_failed", "object": "refund", "amount": 500, "status": "failed", "currency": "usd"}
        # the question for the truth, then the order
        stripe.faults.extend([Fault(), Fault(garbled=True, body=json.dumps(failed).encode())])
        said = text_of(ann.send(page, f"{page}/refund").text)
        assert "Not done. Stripe: failed." in said

    def test_of_a_wrong_amount_nothing_is_given(
        self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str
    ) -> None:
        page = f"/sessions/{sale}"
        before = db.everything()
        for amount in (
            "",
            "0",
            "-1",
            "0.001",
            "1e2",
            "1_0",
            "\N{ARABIC-INDIC DIGIT ONE}",
            "NaN",
            "Infinity",
            "five",
            "1,5",
            "9" * 29,
        ):
            answer = ann.send(page, f"{page}/refund", amount=amount)
            assert (answer.status_code, "amount" in answer.text) == (422, True), amount
        assert db.everything() == before
        assert ann.send(page, f"{page}/refund", amount="5.01").status_code == 422
        assert given_back(db, stripe, sale) == []
        assert db.state(uuid.UUID(sale))[0] == "completed"

    def test_is_offered_for_money_only(self, ann: Operator, past: Past) -> None:
        assert "Give the money back" not in ann.read(f"/sessions/{past.open}")
        assert "Give the money back" not in ann.read(f"/sessions/{past.failed}")

    def test_a_note_that_no_provider_takes_is_refused_before_anything_is_written(
        self, ann: Operator, db: Database, sale: str
    ) -> None:
        before = db.everything()
        answer = ann.send(f"/sessions/{sale}", f"/sessions/{sale}/refund", note="no\u00a0break")
        assert (answer.status_code, "note: " in answer.text) == (422, True)
        assert db.everything() == before


class TestDismiss:
    def test_closes_the_review_with_a_word(self, ann: Operator, db: Database, past: Past) -> None:
        said = text_of(ann.send("/reviews", f"/sessions/{past.undelivered}/dismiss", note="sent by post").text)
        assert "Done. The review is closed." in said
        assert "Nothing waits for a person." in said
        assert notes(db, past.undelivered) == [("reviewed", "fulfilment_failed: Ann: sent by post")]
        assert db.as_service().rpc("check_payment_invariants") == []

    def test_needs_a_word(self, ann: Operator, past: Past) -> None:
        assert ann.send("/reviews", f"/sessions/{past.undelivered}/dismiss", note="").status_code == 422
        assert str(past.undelivered) in ann.get("/reviews").text

    def test_does_not_close_what_was_not_seen(self, ann: Operator, db: Database, past: Past) -> None:
        answer = ann.send("/reviews", f"/sessions/{past.undelivered}/dismiss", note="x", reasons="overpaid")
        assert answer.status_code == 409
        assert "fulfilment_failed" in answer.text
        assert notes(db, past.undelivered) == []


class TestAsk:
    def test_finds_a_payment_that_nobody_told(self, ann: Operator, office: Bridge, stripe: StripeSimulator) -> None:
        session_id = office.buyer().checkout().json()["session_id"]
        stripe.pay(office.attempt(session_id)["provider_session_id"])
        page = f"/sessions/{session_id}"
        said = text_of(ann.send(page, f"{page}/ask").text)
        assert "Done. The provider was asked: the session is completed." in said
        assert "completed fulfilled" in said

    def test_hears_of_a_refund_that_nobody_told(
        self, ann: Operator, db: Database, stripe: StripeSimulator, sale: str
    ) -> None:
        payment = db.session(sale)["provider_payment_id"]
        stripe.refund(payment, 200)
        page = f"/sessions/{sale}"
        assert "the session is partially_refunded" in text_of(ann.send(page, f"{page}/ask").text)
        assert notes(db, sale) == [("note", "Ann: ask the provider")]

    def test_says_when_its_provider_is_not_turned_on(self, ann: Operator, db: Database) -> None:
        session_id = db.new_session(p_provider="hypay", p_currency="ILS")
        db.open_attempt(session_id)
        page = f"/sessions/{session_id}"
        answer = ann.send(page, f"{page}/ask")
        assert (answer.status_code, "hypay" in answer.text) == (422, True)

    def test_is_not_offered_where_no_page_was_opened(self, ann: Operator, past: Past) -> None:
        assert "Ask the provider" not in ann.read(f"/sessions/{past.open}")
        assert "Ask the provider" in ann.read(f"/sessions/{past.failed}")


def test_a_form_leads_nowhere_but_into_the_dashboard(ann: Operator, db: Database, past: Past) -> None:
    db.break_fulfilment("credits")
    ann.http.follow_redirects = False
    for back in ("https://evil.test/", "//evil.test", "/healthz"):
        answer = ann.send("/reviews", f"/sessions/{past.undelivered}/retry", back=back)
        assert answer.headers["location"] == "/dashboard"


def test_of_a_form_that_was_sent_after_the_visit_nothing_is_done(ann: Operator, db: Database, past: Past) -> None:
    before = db.everything()
    ann.http.cookies.clear()
    answer = ann.http.post(f"/dashboard/sessions/{past.undelivered}/retry", data={"csrf": "old"})
    assert "You were signed out. Nothing was done" in answer.text
    assert f'name="wanted" value="/dashboard/sessions/{past.undelivered}"' in answer.text
    assert db.everything() == before


def test_a_refusal_leads_back_to_the_page(ann: Operator, past: Past) -> None:
    page = f"/sessions/{past.undelivered}"
    answer = ann.send(page, f"{page}/dismiss", note="x", reasons="overpaid")
    assert f'href="/dashboard{page}"' in answer.text
    assert "Sign out Ann" in answer.text


def test_a_note_stands_in_the_story(ann: Operator, past: Past) -> None:
    page = f"/sessions/{past.failed}"
    said = text_of(ann.send(page, f"{page}/note", note="wrote to bob@example.test").text)
    assert "Ann: wrote to b***@example.test" in said


class TestReplay:
    @pytest.fixture
    def dead(self, office: Bridge, stripe: StripeSimulator, db: Database) -> dict[str, Any]:
        """The genuine webhook of a paid page, kept as what could not be applied."""
        session_id = office.buyer().checkout().json()["session_id"]
        event = StripeDesk(stripe).paid(office.attempt(session_id))
        db.as_service().rpc(
            "record_webhook_failure", p_provider="stripe", p_error="session_not_found", p_retryable=False,
            p_event={"id": event["id"], "type": event["type"], "payload": event},
        )  # fmt: skip
        return {"session": session_id, "event": event["id"]}

    def test_applies_what_was_refused(self, ann: Operator, db: Database, dead: dict[str, Any]) -> None:
        assert f"{dead['event']} checkout.session.completed dead" in ann.read("/dead-letters")
        said = text_of(ann.send("/dead-letters", "/dead-letters/replay", provider="stripe", event=dead["event"]).text)
        assert "Done. 1 of 1 applied." in said
        assert "All were applied." in said
        assert db.state(uuid.UUID(dead["session"]))[:2] == ("completed", "fulfilled")
        assert notes(db, dead["session"]) == [("note", f"Ann: replay stripe {dead['event']}")]

    def test_of_all_says_why_one_was_not(self, ann: Operator, db: Database, dead: dict[str, Any]) -> None:
        db.as_service().rpc(
            "record_webhook_failure", p_provider="stripe", p_error="x", p_retryable=False,
            p_event={"id": "evt_odd", "type": "checkout.session.completed", "payload": {"id": "evt_odd"}},
        )  # fmt: skip
        said = text_of(ann.send("/dead-letters", "/dead-letters/replay").text)
        assert "Not done. 1 of 2 applied. evt_odd:" in said
        assert dead["event"] not in ann.read("/dead-letters")

    def test_what_is_not_ours_is_not_called_applied(self, ann: Operator, db: Database, stripe: StripeSimulator) -> None:
        event = stripe.event("customer.created", {"id": "cus_1", "object": "customer"})
        db.as_service().rpc(
            "record_webhook_failure", p_provider="stripe", p_error="x", p_retryable=False,
            p_event={"id": event["id"], "type": event["type"], "payload": event},
        )  # fmt: skip
        said = text_of(ann.send("/dead-letters", "/dead-letters/replay").text)
        assert f"Not done. 0 of 1 applied. {event['id']}: ignored" in said

    def test_what_waits_no_more(self, ann: Operator, dead: dict[str, Any]) -> None:
        (csrf, *_) = re.findall(r'name="csrf" value="(\w+)"', ann.get("/dead-letters").text)
        data = {"csrf": csrf, "provider": "stripe", "event": dead["event"]}
        said = [text_of(ann.http.post("/dashboard/dead-letters/replay", data=data).text) for _ in range(2)]
        assert "1 of 1 applied" in said[0]
        assert "It waits no more." in said[1]

    def test_a_dead_one_that_needs_nothing_more_goes_with_a_word(
        self, ann: Operator, db: Database, dead: dict[str, Any]
    ) -> None:
        fields = {"provider": "stripe", "event": dead["event"], "note": "paid at the counter"}
        said = text_of(ann.send("/dead-letters", "/dead-letters/close", **fields).text)
        assert f"Done. {dead['event']} waits no more." in said
        assert "All were applied." in said
        (row,) = db.sql("select status, error, payload from payments.webhook_events")
        assert row == {"status": "handled", "error": "session_not_found: Ann: paid at the counter", "payload": {}}
        assert ann.http.post("/dashboard/dead-letters/close", data=fields).status_code == 401


class TestLetters:
    @pytest.fixture
    def given_up(self, db: Database, past: Past) -> int:
        number: int = db.value(
            "update payments.notifications set status = 'dead', tries = 8, error = 'ann@example.test is unknown',"
            " finished_at = now() where session_id = %s and kind = 'receipt' returning id", past.refunded,
        )  # fmt: skip
        return number

    def test_one_that_was_given_up_is_sent_again(self, ann: Operator, db: Database, past: Past, given_up: int) -> None:
        assert "receipt a***@example.test" in ann.read("/dead-letters")
        assert "a***@example.test is unknown" in ann.read("/dead-letters")
        said = text_of(ann.send("/dead-letters", "/dead-letters/send").text)
        assert "Done. The letter is queued again." in said
        assert "Letters that were given up None." in said
        claimed = {letter["id"]: letter["tries"] for letter in db.as_service().rpc("claim_notifications")}
        assert claimed[given_up] == 1
        assert notes(db, past.refunded) == [("note", "Ann: send the receipt again")]

    def test_only_one_that_was_given_up(self, ann: Operator, db: Database, given_up: int) -> None:
        html = ann.get("/dead-letters").text
        (csrf,) = set(re.findall(r'name="csrf" value="(\w+)"', html))
        (other,) = db.sql("select min(id) as id from payments.notifications where status = 'queued'")
        before = db.everything()
        for number in (other["id"], 0, "x", 10**30):
            data = {"csrf": csrf, "number": str(number)}
            assert ann.http.post("/dashboard/dead-letters/send", data=data).status_code in {404, 422}
        assert db.everything() == before
        assert given_up
