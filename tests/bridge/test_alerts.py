"""An operator hears of each incident: by the log, a metric, a mail and a webhook, from whichever process is alive."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge import alerts
from bridge.alerts import audit, keep_watch, note, tell, watch
from bridge.api import create_app
from bridge.checkout import Checkout
from bridge.errors import DatabaseUnavailable, MailRefused, SetupError
from bridge.jobs import Jobs
from bridge.local.serving import listening, serving
from bridge.mail import Operator
from bridge.metrics import ALERTS
from bridge.rpc import Alert, Letter, Rpc, connect_rpc
from bridge.settings import Settings, load_settings
from bridge.simulators.hypay import HyPaySimulator
from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer, running_bridge, wait_until
from tests.support.database import Database, Row
from tests.support.mail_server import MailServer

SESSION = uuid.UUID(int=7)
T = TypeVar("T")
ALERT = Alert(7, "stale_heartbeat", "host:1", "Last seen at 2026-11-21 10:00:00 UTC.", "2026-11-21T10:02:30+00:00")


@dataclass
class Pager:
    """What takes an operator's messages; ``troubles`` are statuses to answer first."""

    url: str = ""
    messages: list[Row] = field(default_factory=list)
    troubles: deque[int] = field(default_factory=deque)

    async def receive(self, request: Request) -> Response:
        if self.troubles:
            return Response(status_code=self.troubles.popleft())
        self.messages.append(json.loads(await request.body()))
        return Response("ok")


@pytest.fixture
def pager() -> Iterator[Pager]:
    pager = Pager()
    app = Starlette(routes=[Route("/services/T000/secret-of-the-address", pager.receive, methods=["POST"])])
    with listening() as listener, serving(app, listener) as url:
        pager.url = f"{url}/services/T000/secret-of-the-address"
        yield pager


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def settings_for(db: Database | None = None, pager: Pager | None = None, mail: MailServer | None = None) -> Settings:
    values: dict[str, Any] = {"environment": "development"}
    if db:
        values["database_url"] = db.url()
    if pager:
        values["operator_webhook"] = pager.url
    if mail:
        values |= {
            "smtp_url": f"smtp://127.0.0.1:{mail.port}", "mail_from": "The Shop <pay@shop.test>",
            "operator_email": "ops@shop.test",
        }  # fmt: skip
    return load_settings(_env_file=None, **values)


def with_rpc(settings: Settings, work: Callable[[Rpc], Awaitable[T]]) -> T:
    async def run() -> T:
        rpc = await connect_rpc(settings)
        try:
            return await work(rpc)
        finally:
            await rpc.close()

    return asyncio.run(run())


def told(settings: Settings, operator: Operator | None = None) -> Counter[str]:
    return with_rpc(settings, lambda rpc: tell(rpc, operator or Operator(settings)))


def seen(settings: Settings) -> None:
    with_rpc(settings, watch)


def lose_worker(db: Database, name: str = "host:1") -> None:
    db.sql("insert into payments.heartbeats values (%s, now() - interval '1 hour')", name)


def open_alerts(db: Database) -> list[tuple[str, str]]:
    rows = db.sql("select kind, subject from payments.alerts where closed_at is null order by id")
    return [(row["kind"], row["subject"]) for row in rows]


class TestTelling:
    def test_mail_and_webhook_both_say_it_once(
        self, db: Database, pager: Pager, mail: MailServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = settings_for(db, pager, mail)
        lose_worker(db)
        counted = ALERTS.labels("stale_heartbeat", "sent")._value.get()
        seen(settings)
        assert told(settings) == {"sent": 1}
        assert told(settings) == {}
        (message,), (letter,) = pager.messages, mail.letters
        assert (message["kind"], message["subject"]) == ("stale_heartbeat", "host:1")
        assert message.keys() == {"text", "kind", "subject", "opened_at"}
        assert message["text"].startswith("pgcheckout: stale_heartbeat (host:1). Last seen at")
        assert (letter["To"], letter["Subject"]) == ("ops@shop.test", "Alert: stale_heartbeat (host:1)")
        assert letter["Message-ID"].startswith("<pgcheckout-alert-")
        assert ALERTS.labels("stale_heartbeat", "sent")._value.get() == counted + 1
        assert "incident opened: stale_heartbeat (host:1)" in caplog.text

    @pytest.mark.parametrize("broken", ["mail", "webhook"])
    def test_what_one_way_does_not_take_comes_again_and_the_other_way_is_not_bothered(
        self, db: Database, pager: Pager, mail: MailServer, broken: str
    ) -> None:
        settings = settings_for(db, pager, mail)
        lose_worker(db)
        seen(settings)
        if broken == "mail":
            mail.troubles.extend(["451 later", "drop"])
        else:
            pager.troubles.extend([500, 302])
        operator = Operator(settings)
        for result in ("failed", "failed", "sent"):
            assert told(settings, operator) == {result: 1}
            db.sql("update payments.alerts set due_at = now()")
        assert (len(pager.messages), len(mail.letters)) == (1, 1)
        assert told(settings, operator) == {}

    def test_another_process_may_repeat_it_and_loses_nothing(
        self, db: Database, pager: Pager, mail: MailServer
    ) -> None:
        settings = settings_for(db, pager, mail)
        lose_worker(db)
        seen(settings)
        mail.troubles.append("drop")
        assert told(settings) == {"failed": 1}
        assert "cannot be reached" in db.value("select error from payments.alerts")
        db.sql("update payments.alerts set due_at = now()")
        assert told(settings) == {"sent": 1}
        assert (len(pager.messages), len(mail.letters)) == (2, 1)

    def test_dead_letters_are_told_of_where_no_mail_is_needed(self, db: Database, pager: Pager) -> None:
        settings = settings_for(db, pager)
        db.complete(db.new_session(p_email="ada@buyer.test"), p_provider_payment_id="pi_1")
        db.sql("update payments.notifications set status = 'dead'")
        seen(settings)
        assert told(settings) == {"sent": 1}
        assert pager.messages[0]["kind"] == "dead_letters"
        assert "ada" not in json.dumps(pager.messages)

    def test_without_any_way_it_is_in_the_log(self, db: Database, caplog: pytest.LogCaptureFixture) -> None:
        settings = settings_for(db)
        lose_worker(db)
        seen(settings)
        caplog.clear()
        assert told(settings) == {"nobody": 1}
        assert "stale_heartbeat (host:1)" in caplog.text
        assert told(settings) == {}

    def test_a_closed_incident_is_in_the_log(self, db: Database, caplog: pytest.LogCaptureFixture) -> None:
        settings = settings_for(db)
        lose_worker(db)
        seen(settings)
        db.sql("delete from payments.heartbeats")
        with caplog.at_level(logging.INFO, "pgcheckout"):
            seen(settings)
        assert "incident closed: stale_heartbeat (host:1)" in caplog.text

    def test_a_template_of_the_shop_s_own_that_is_wrong_does_not_keep_the_webhook(
        self, pager: Pager, mail: MailServer, tmp_path: Path
    ) -> None:
        (tmp_path / "alert.txt").write_text("{{ surprise }}")
        operator = Operator(settings_for(None, pager, mail).model_copy(update={"mail_templates": tmp_path}))
        with pytest.raises(SetupError, match="template of alert"):
            asyncio.run(operator.tell_alert(ALERT))
        assert len(pager.messages) == 1

    @pytest.mark.parametrize("status", [302, 404, 503, None])
    def test_an_error_never_shows_the_address(
        self, pager: Pager, status: int | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        if status:
            pager.troubles.append(status)
        else:
            pager.url = "http://127.0.0.1:9/secret-of-the-address"
        with caplog.at_level(logging.DEBUG), pytest.raises(MailRefused) as refused:
            asyncio.run(Operator(settings_for(None, pager)).tell_alert(ALERT))
        assert str(status or "ConnectError") in refused.value.message
        assert "secret-of-the-address" not in refused.value.message + caplog.text


class TestReviews:
    def test_one_goes_to_mail_and_webhook(self, db: Database, pager: Pager, mail: MailServer) -> None:
        settings = settings_for(db, pager, mail)
        session_id = self.trouble(db)
        assert self.notify(settings) == 2
        (message,) = pager.messages
        assert (message["kind"], message["subject"]) == ("review", f"{session_id} refund_exceeds_payment")
        assert [letter["Subject"] for letter in mail.letters] == [
            "Your receipt: 100 credits", "A payment needs you: refund_exceeds_payment"
        ]  # fmt: skip
        assert "ada@buyer.test" not in json.dumps(message)

    def test_without_a_mail_server_the_buyers_letters_wait_for_one(
        self, db: Database, pager: Pager, mail: MailServer
    ) -> None:
        self.trouble(db)
        assert self.notify(settings_for(db)) == 0
        assert self.notify(settings_for(db, pager)) == 1
        assert [message["kind"] for message in pager.messages] == ["review"]
        assert self.notify(settings_for(db, None, mail)) == 1
        assert mail.recipients == [["ada@buyer.test"]]

    def test_one_from_before_there_were_times_is_told_too(self, pager: Pager) -> None:
        letter = Letter(7, SESSION, "review_alert", None, {"occurrence": "overpaid"})
        assert asyncio.run(Operator(settings_for(None, pager)).tell_review(letter))
        assert pager.messages[0]["opened_at"] is None

    @staticmethod
    def trouble(db: Database) -> Any:
        session_id = db.new_session(p_email="ada@buyer.test")
        db.complete(session_id, p_provider_payment_id="pi_1")
        db.as_service().rpc("refund_checkout_session", p_session_id=session_id, p_provider_refund_id="re", p_amount=900)
        return session_id

    @staticmethod
    def notify(settings: Settings) -> int:
        return with_rpc(settings, lambda rpc: Jobs(rpc, Checkout(rpc, {}), settings).run("notify"))


class TestCounting:
    def test_forged_notifications_write_nothing_and_are_reported_as_one_sum(
        self, bridge: Bridge, stripe: StripeSimulator
    ) -> None:
        before = bridge.db.everything()
        for _ in range(20):
            assert bridge.deliver("stripe", ({"stripe-signature": "t=1,v1=00"}, b"{}")).status_code == 400
        bridge.deliver("nobody", ({}, b"{}"))
        assert bridge.db.everything() == before
        seen(bridge.settings)
        assert bridge.db.sql("select kind, subject, times from payments.troubles") == [
            {"kind": "signature_failures", "subject": "stripe", "times": 20}
        ]
        assert open_alerts(bridge.db) == [("signature_failures", "stripe")]

    def test_a_provider_that_cannot_be_asked_is_counted_however_it_was_asked(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        session_id = buyer.checkout().json()["session_id"]
        for fault in (Fault(status=503), Fault(status=401)):
            stripe.faults.extend([fault] * 3)
            assert buyer.verify(session_id=session_id).status_code == 502
            stripe.faults.clear()
        assert buyer.verify(session_id=session_id).status_code == 200
        assert alerts._noted == {("failed_verifications", "stripe"): 2}

    def test_a_forged_return_where_that_is_the_proof_counts_as_a_forged_notification(self, db: Database) -> None:
        with HyPaySimulator() as hypay, running_bridge(db, hypay) as bridge:
            opened = bridge.buyer().checkout(provider="hypay", currency="ILS").json()
            hypay.buyer_pays(opened["checkout_url"], lambda _: httpx.Response(200))
            query = hypay.return_query(opened["checkout_url"])
            bridge.http.get(f"/return/hypay?{query.replace('Amount=19', 'Amount=18')}")
        assert alerts._noted == {("signature_failures", "hypay"): 1}

    def test_what_could_not_be_reported_is_not_forgotten(self, db: Database, impatient: None) -> None:
        note("signature_failures", "stripe")
        with pytest.raises(DatabaseUnavailable):
            seen(load_settings(_env_file=None, database_url="postgresql://postgres@127.0.0.1:9/none"))
        note("signature_failures", "stripe")
        seen(settings_for(db))
        assert db.value("select times from payments.troubles") == 2

    def test_the_audit_tells_of_broken_guarantees(self, db: Database, pager: Pager) -> None:
        settings = settings_for(db, pager)
        db.complete(db.new_session(), p_provider_payment_id="pi_1")
        db.sql("update public.payment_credit_balances set balance = balance + 1")
        with_rpc(settings, audit)
        assert told(settings) == {"sent": 1}
        assert pager.messages[0]["subject"] == "balance_is_the_sum_of_entries"


class TestWatch:
    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alerts, "WATCH_SECONDS", 0.05)

    def test_a_serving_bridge_tells_that_the_only_worker_is_dead(self, db: Database, pager: Pager) -> None:
        with listening() as listener, serving(create_app(settings_for(db, pager)), listener):
            lose_worker(db)
            wait_until(lambda: pager.messages)
        assert [message["subject"] for message in pager.messages] == ["host:1"]

    def test_one_that_cannot_reach_the_operator_leaves_it_to_another(self, db: Database, pager: Pager) -> None:
        lose_worker(db)
        with listening() as listener, serving(create_app(settings_for(db)), listener):
            wait_until(lambda: open_alerts(db))
        assert db.value("select tries from payments.alerts") == 0
        assert told(settings_for(db, pager)) == {"sent": 1}

    def test_trouble_does_not_end_it(self, db: Database, pager: Pager, caplog: pytest.LogCaptureFixture) -> None:
        db.sql("alter function public.watch_payments() rename to hidden")
        settings = settings_for(db, pager)

        async def go(rpc: Rpc) -> None:
            task = asyncio.create_task(keep_watch(rpc, Operator(settings)))
            await asyncio.to_thread(wait_until, lambda: "watch:" in caplog.text)
            db.sql("alter function public.hidden() rename to watch_payments")
            lose_worker(db)
            await asyncio.to_thread(wait_until, lambda: pager.messages)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        with_rpc(settings, go)
        assert len(pager.messages) == 1


class TestReadiness:
    def test_it_says_which_workers_are_alive_and_stays_ready_when_they_are_not(
        self, db: Database, stripe: StripeSimulator
    ) -> None:
        with running_bridge(db, stripe) as bridge:
            db.as_service().rpc("record_heartbeat", p_name="host:2")
            lose_worker(db, "host:1")
            answer = bridge.http.get("/readyz")
        assert answer.status_code == 200
        said = answer.json()
        assert (said["status"], said["stale"], sorted(said["workers"])) == ("ok", ["host:1"], ["host:1", "host:2"])
        assert said["workers"]["host:2"] <= 120 < said["workers"]["host:1"]


@pytest.mark.parametrize(
    ("environment", "url", "accepted"),
    [
        ("production", "https://hooks.test/secret-path", True),
        ("production", "http://hooks.test/secret-path", False),
        ("development", "http://hooks.test/secret-path", True),
        ("development", "ftp://hooks.test/secret-path", False),
        ("production", "https:///secret-path", False),
        ("production", "https://[secret-path", False),
    ],
)
def test_an_operator_s_webhook_is_called_in_private(environment: str, url: str, accepted: bool) -> None:
    if accepted:
        settings = load_settings(_env_file=None, environment=environment, operator_webhook=url)
        assert "secret-path" not in repr(settings)
        return
    with pytest.raises(SetupError, match="PGCHECKOUT_OPERATOR_WEBHOOK") as refused:
        load_settings(_env_file=None, environment=environment, operator_webhook=url)
    assert "secret-path" not in refused.value.message
