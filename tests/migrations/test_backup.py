"""The drill of docs/operations.md: a shop is dumped and restored elsewhere, and nobody could tell the difference."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate, pending_migrations, seed_file
from tests.migrations.conftest import NewDatabase
from tests.migrations.test_upgrade import HOST_APPLICATION, REVERSE_GIFT_CARD, Story, broken, refund
from tests.support.database import Database, apply_files, outcome
from tests.support.drill import dump, restore
from tests.support.schema import describe, difference

# a project made before 2026 gives everybody everything
GENEROUS = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
"""
EMPTY = {"payments.unnumbered_invoices"}
LAST_INVOICE = "select max(number) from public.payment_invoices where series = 'INV'"


@pytest.fixture
def story(server: LocalPostgres, new_database: NewDatabase) -> Story:
    """A shop with purchases in every state."""
    name, url = new_database()
    db = Database("127.0.0.1", server.port, name)
    migrate(url)
    apply_files(url, [seed_file()])
    for statements in (HOST_APPLICATION.replace("create schema host;", ""), REVERSE_GIFT_CARD):
        db.sql(statements.replace("host.", "public."))
    story = Story(db)
    refund(db, story.sessions["paid_first"], 200, "re_part")
    refund(db, story.sessions["gift"], 2500, "re_all")
    db.sql("insert into payments.coupons (id, percent_off, max_redemptions) values ('ONCE', 20, 1)")
    db.sql("insert into payments.coupon_currencies (coupon_id, currency, minimum_amount) values ('ONCE', 'USD', 100)")
    db.open_attempt(db.new_session(p_coupon="ONCE"))
    db.new_product("monthly", "contribution", USD=1000)
    db.new_product(
        "circle", "group_create", {"capacity": 3, "contribution_product": "monthly", "cycle": "1 month"}, USD=2000
    )
    founder = story.paid("founded", "circle")
    story.page("contributed", "monthly", founder, p_subject=f"{db.value('select id from public.payment_groups')}:1")
    story.pay("contributed")
    service = db.as_service()
    service.rpc("find_checkout_attempt", p_session_id=story.sessions["founded"], p_user_id=founder)
    service.rpc("report_trouble", p_kind="signature_failures", p_subject="stripe", p_count=1)
    service.rpc("record_heartbeat", p_name="worker")
    service.rpc("watch_payments")
    return story


@pytest.fixture
def copy(server: LocalPostgres, story: Story, new_database: NewDatabase, tmp_path: Path) -> Database:
    """The shop, restored in a project without pgcheckout."""
    name, url = new_database()
    db = Database("127.0.0.1", server.port, name)
    db.sql(GENEROUS)
    dump(server, story.db.url(), tmp_path)
    restore(server, url, tmp_path)
    return db


def test_a_restored_shop_is_the_shop_and_goes_on_where_it_was(
    server: LocalPostgres, story: Story, copy: Database
) -> None:
    rows = story.db.everything()
    for table in rows:  # the drill would prove nothing about an empty one
        assert rows[table] or table in EMPTY, table
    states = {row["status"] for row in story.db.sql("select status from public.payment_checkout_sessions")}
    assert states == {
        "pending", "processing", "completed", "failed", "expired", "cancelled", "partially_refunded", "refunded"
    }  # fmt: skip
    assert difference(described(server, story.db), described(server, copy), "shop", "copy") == ""
    assert copy.everything() == rows
    with psycopg.connect(copy.url()) as connection:
        assert pending_migrations(connection) == []

    page = story.pages["paid_first"]
    answer = copy.as_service().rpc(
        "apply_payment_outcome",
        p_outcome=outcome(page, provider_payment_id="pi_paid_first"),
        p_event={"id": "evt_paid_first", "type": "checkout.completed", "payload": {}},
    )
    assert answer["duplicate"]
    copy.complete(page["session_id"], p_provider_payment_id="pi_paid_first")  # the same money, without the event
    assert copy.everything() == rows

    last = copy.value(LAST_INVOICE)
    copy.apply(story.pages["waiting"], event="evt_waiting")
    attempt = copy.open_attempt(copy.new_session())
    copy.apply(attempt, event="evt_new")
    assert copy.value(LAST_INVOICE) == last + 2
    assert attempt["number"] == story.db.value("select max(number) from payments.attempts") + 1
    assert (
        copy.state(story.sessions["waiting"]) == copy.state(attempt["session_id"]) == ("completed", "fulfilled", None)
    )
    assert broken(copy) == []


def described(server: LocalPostgres, db: Database) -> list[str]:
    """All but the names of the programs that wrote it."""
    return [line for line in describe(server, db.name) if not line.startswith("-- Dumped")]
