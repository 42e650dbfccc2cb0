"""What operators can count, and who may."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.local.postgres import LocalPostgres
from bridge.local.serving import listening
from bridge.metrics import REGISTRY, figures
from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer, StripeDesk, logged_url, running_bridge, statements_of, wait_until
from tests.support.command import arguments, environment
from tests.support.database import REPOSITORY, Database

NOWHERE = "postgresql://postgres@127.0.0.1:9/none"
TOKEN = "the-metrics-token-of-these-tests"
HEALTH: dict[str, Any] = {
    "sessions": {"pending": 3, "pending_over_1h": 2, "processing": 1, "overdue": 4},
    "reviews": {"open": 5, "paid_but_unfulfilled": 6, "oldest_seconds": 50},
    "webhooks": {"failed": 7, "dead": 8, "oldest_seconds": None},
    "notifications": {"due": 9, "oldest_seconds": 90, "dead": 10},
    "reconcile": {"due": 11, "oldest_seconds": 110},
    "invoices": {"unnumbered": 12, "oldest_seconds": 120},
    "heartbeats": {"host:1": 13},
    "alerts": {"dead_letters": 14},
}


def scrape(text: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(bridge: Bridge) -> dict[tuple[str, ...], float]:
    answer = bridge.http.get("/metrics")
    assert answer.status_code == 200
    return scrape(answer.text)


class Since:
    """How samples have grown since this was made."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._before = scraped(bridge)

    def __call__(self, *sample: str) -> float:
        return scraped(self._bridge).get(sample, 0.0) - self._before.get(sample, 0.0)


def declared() -> dict[str, tuple[str, str]]:
    """Labels and meaning of every metric, by the name under which it is scraped."""
    found = {}
    for metric in REGISTRY._names_to_collectors.values():
        name = metric._name + ("_total" if metric._type == "counter" else "")  # type: ignore[attr-defined]
        found[name] = (", ".join(f"`{label}`" for label in metric._labelnames), metric._documentation)  # type: ignore[attr-defined]
    for family in figures(HEALTH):
        labels = family.samples[0].labels
        found[family.name] = (", ".join(f"`{label}`" for label in labels), family.documentation)
    return found


class TestTheList:
    def test_the_table_in_the_documentation_is_this_registry(self) -> None:
        rows = re.findall(
            r"^\| `(pgcheckout_\w+)` \| (.*?) ?\| (.*) \|$", (REPOSITORY / "docs/metrics.md").read_text(), re.MULTILINE
        )
        assert {name: (labels, meaning) for name, labels, meaning in rows} == declared()

    def test_times_are_in_seconds_and_say_so(self) -> None:
        for name, (_, meaning) in declared().items():
            assert ("seconds" in name) == bool(re.search(r"[Tt]ime (to|of|in) |How long|When each", meaning)), name

    def test_every_figure_of_the_database_is_where_it_belongs(self) -> None:
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in figures(HEALTH)
            for sample in family.samples
        }
        assert found == {
            ("pgcheckout_database_up",): 1, ("pgcheckout_open_sessions", "pending"): 3,
            ("pgcheckout_open_sessions", "processing"): 1, ("pgcheckout_overdue_sessions",): 4,
            ("pgcheckout_unfulfilled_sessions",): 6, ("pgcheckout_queue_depth", "invoices"): 12,
            ("pgcheckout_queue_depth", "letters"): 9, ("pgcheckout_queue_depth", "reconcile"): 11,
            ("pgcheckout_queue_depth", "reviews"): 5, ("pgcheckout_queue_depth", "webhooks"): 15,
            ("pgcheckout_queue_age_seconds", "invoices"): 120, ("pgcheckout_queue_age_seconds", "letters"): 90,
            ("pgcheckout_queue_age_seconds", "reconcile"): 110, ("pgcheckout_queue_age_seconds", "reviews"): 50,
            ("pgcheckout_queue_age_seconds", "webhooks"): 0, ("pgcheckout_dead", "letters"): 10,
            ("pgcheckout_dead", "webhooks"): 8, ("pgcheckout_heartbeat_age_seconds", "host:1"): 13,
            ("pgcheckout_open_alerts", "dead_letters"): 14,
        }  # fmt: skip


class TestCounting:
    def test_a_purchase_is_seen_from_all_sides(
        self, bridge: Bridge, buyer: Buyer, stripe_desk: StripeDesk, stripe: StripeSimulator
    ) -> None:
        grown = Since(bridge)
        session_id = buyer.checkout().json()["session_id"]
        buyer.verify(session_id=session_id)
        stripe.faults.extend([Fault(status=503)] * 3)
        buyer.verify(session_id=session_id)
        bridge.deliver("stripe", stripe_desk.deliver(stripe_desk.paid(bridge.attempt(session_id))))
        bridge.deliver("stripe", ({"stripe-signature": "t=1,v1=00"}, b"{}"))
        for sample in (
            ("pgcheckout_webhooks_total", "stripe", "applied"),
            ("pgcheckout_webhooks_total", "stripe", "signature_invalid"),
            ("pgcheckout_signature_failures_total", "stripe"),
            ("pgcheckout_verification_seconds_count", "stripe", "pending"),
            ("pgcheckout_verification_seconds_count", "stripe", "provider_unavailable"),
            ("pgcheckout_rpc_seconds_count", "get_or_create_checkout_session", "ok"),
            ("pgcheckout_http_request_seconds_count", "/checkout", "200"),
            ("pgcheckout_http_request_seconds_count", "/verify", "502"),
            ("pgcheckout_http_request_seconds_count", "/webhooks/{provider}", "200"),
        ):
            assert grown(*sample) == 1, sample

    def test_a_refusal_of_the_database_is_a_result(self, bridge: Bridge, buyer: Buyer) -> None:
        grown = Since(bridge)
        reason = buyer.checkout("no_such_plan").json()["error"]["reason"]
        assert grown("pgcheckout_rpc_seconds_count", "get_or_create_checkout_session", reason) == 1

    def test_routes_are_counted_by_their_template_never_by_what_was_asked(self, bridge: Bridge, buyer: Buyer) -> None:
        grown = Since(bridge)
        opened = buyer.checkout(provider="sandbox").json()
        buyer.pay(opened["session_id"])
        httpx.get(opened["checkout_url"])
        bridge.http.get("/surprise/made-up")
        bridge.http.delete("/verify")
        assert grown("pgcheckout_http_request_seconds_count", "/checkout/{session_id}/pay", "200") == 1
        assert grown("pgcheckout_http_request_seconds_count", "none", "404") == 1
        assert grown("pgcheckout_http_request_seconds_count", "/verify", "405") == 1
        text = bridge.http.get("/metrics").text
        assert 'route="/sandbox/' in text
        assert opened["session_id"] not in text
        assert "made-up" not in text

    def test_what_asking_again_has_repaired(self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator) -> None:
        with running_bridge(bridge.db, stripe, admin_token=TOKEN) as office:
            grown = Since(office)
            session_id = buyer.checkout().json()["session_id"]
            for paid in (False, True):
                if paid:
                    stripe.pay(bridge.attempt(session_id)["provider_session_id"])
                bridge.db.sql("update payments.attempts set reconcile_at = now() where reconcile_at is not null")
                office.http.post("/admin/jobs/reconcile", headers={"Authorization": f"Bearer {TOKEN}"})
                assert grown("pgcheckout_repairs_total", "stripe") == paid

    def test_a_worker_can_be_scraped_too(self, db: Database, tmp_path: Path) -> None:
        with listening() as listener:
            port = listener.getsockname()[1]
        command = arguments("work", "--metrics-port", str(port))
        with subprocess.Popen(
            command, env=environment({"database_url": db.url()}), cwd=tmp_path, stderr=sys.stderr
        ) as process:
            try:
                wait_until(lambda: worker_counts(port) >= 1, 30.0)
                (name,) = db.as_service().rpc("payment_health")["heartbeats"]
                assert name.endswith(f":{process.pid}")
            finally:
                process.terminate()
                process.wait(15)


def worker_counts(port: int) -> float:
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.TransportError:
        return 0.0
    return scrape(text).get(("pgcheckout_rpc_seconds_count", "record_heartbeat", "ok"), 0.0)


class TestTheDatabase:
    def test_a_scraper_asks_it_once_in_a_while(self, db: Database, server: LocalPostgres) -> None:
        with running_bridge(db, database_url=logged_url(db)) as bridge:
            bridge.http.get("/readyz")
            with statements_of(bridge, server) as statements:
                for _ in range(5):
                    assert scraped(bridge)[("pgcheckout_database_up",)] == 1
                bridge.http.get("/readyz")
        assert not [statement for statement in statements if "payment_health" in statement]

    def test_one_that_is_away_leaves_its_figures_out_and_nothing_else(self, db: Database, impatient: None) -> None:
        with running_bridge(db, database_url=NOWHERE) as bridge:
            found = scraped(bridge)
        assert found[("pgcheckout_database_up",)] == 0
        assert ("pgcheckout_open_sessions", "pending") not in found
        assert found[("pgcheckout_rpc_seconds_count", "payment_health", "database_unavailable")] >= 1


class TestWhoMayCount:
    @pytest.fixture
    def closed(self, db: Database) -> Iterator[Bridge]:
        with running_bridge(db, environment="production", sandbox_secret=None, metrics_token=TOKEN) as bridge:
            yield bridge

    def test_who_has_the_token(self, closed: Bridge) -> None:
        for sent in (None, "", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ünïcode"):
            headers = {} if sent is None else {b"authorization": sent.encode()}
            answer = closed.http.get("/metrics", headers=headers)
            assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "not_signed_in"), sent
        answer = closed.http.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert "pgcheckout_database_up 1.0" in answer.text

    def test_nobody_in_production_without_one(self, db: Database) -> None:
        with running_bridge(db, environment="production", sandbox_secret=None) as bridge:
            answer = bridge.http.get("/metrics")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "not_supported")
