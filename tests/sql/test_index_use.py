"""Every index is explained in docs/operations.md, and is scanned by each call that is named there.

The plans are those that Postgres really ran, in all functions behind a call (auto_explain), in a shop where every table
is large enough for its indexes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from tests.support.database import REPOSITORY, Database, Row, apply_files, outcome

SESSIONS = 10_000
NAME = "a_shop_to_explain"
BUYER, MEMBER, GROUP = "md5('buyer 10')::uuid", "md5('buyer 6')::uuid", "md5('group 5')::uuid"

EXPLAIN = """
load 'auto_explain';
set auto_explain.log_min_duration = 0;
set auto_explain.log_nested_statements = on;
set auto_explain.log_analyze = on;
set auto_explain.log_timing = off;
set auto_explain.log_format = json;
set auto_explain.log_level = notice;
set search_path = public, extensions;
"""

_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", re.MULTILINE)
_EVENT = """jsonb_build_object('id', 'evt_new', 'type', 't', 'payload', '{{}}'::jsonb)"""
_PAY = "select public.apply_payment_outcome('{%s[outcome]}', " + _EVENT + ")"
_REFUND = "select public.refund_checkout_session('{%s[session_id]}', 're_1', {%s[amount]})"
# statements; the last one is looked at
USES: dict[str, tuple[str, ...]] = {
    "get_or_create_checkout_session": (
        "select public.get_or_create_checkout_session('thing_7', {buyer}, p_idempotency_key => 'k', p_coupon => 'C5')",
    ),
    "quote_checkout": ("select public.quote_checkout('thing_7', 'USD', 'C5')",),
    "get_latest_checkout_session": ("select public.get_latest_checkout_session({buyer})",),
    "open_checkout_attempt": ("select public.open_checkout_attempt('{credits[session_id]}')",),
    "find_checkout_attempt": (
        "select public.find_checkout_attempt(p_reference => '{credits[reference]}', p_user_id => {buyer})",
    ),
    "find_checkout_attempt by page": (
        "select public.find_checkout_attempt(p_provider => 'stripe',"
        " p_provider_session_id => '{credits[provider_session_id]}')",
    ),
    "apply_payment_outcome": (_PAY % "credits",),
    "complete_checkout_session by page": (
        "select public.complete_checkout_session('{credits[session_id]}',"
        " p_stripe_session_id => '{credits[provider_session_id]}')",
    ),
    "fail_checkout_session": ("select public.fail_checkout_session('{credits[session_id]}', 'x', 'y')",),
    "payment of a subscription": (_PAY % "subscription",),
    "payment of a place": (_PAY % "place",),
    "payment of a contribution": (_PAY % "contribution",),
    "refund_checkout_session": (_PAY % "credits", _REFUND % ("credits", "credits")),
    "refund of a subscription": (_PAY % "subscription", _REFUND % ("subscription", "subscription")),
    "spend_credits": ("select public.spend_credits({buyer}, 1, 'r', 'k')",),
    "expire_old_checkout_sessions": ("select public.expire_old_checkout_sessions()",),
    "claim_sessions_to_reconcile": ("select public.claim_sessions_to_reconcile(5)",),
    "claim_notifications": ("select public.claim_notifications(5)",),
    "list_webhook_failures": ("select public.list_webhook_failures()",),
    "list_checkout_sessions by user": ("select public.list_checkout_sessions(p_user_id => {buyer}, p_limit => 5)",),
    "list_checkout_sessions by status": ("select public.list_checkout_sessions('refunded', p_limit => 5)",),
    "list_checkout_sessions in review": ("select public.list_checkout_sessions(p_in_review => true, p_limit => 5)",),
    "checkout_session_story": ("select public.checkout_session_story('{paid}')",),
    "report_trouble": ("select public.report_trouble('failed_verifications', 'stripe', 1)",),
    "watch_payments": ("select public.watch_payments()",),
    "claim_alerts": ("select public.claim_alerts(2)",),
    "record_heartbeat": ("select public.record_heartbeat('worker 7')",),
    "begin_idempotent_request": ("select public.begin_idempotent_request('key 7', 'h')",),
    "purge_old_payment_data": ("select public.purge_old_payment_data()",),
    "payment_report": ("select public.payment_report(1)",),
    "payment_health": ("select public.payment_health()",),
    "a user is deleted": ("delete from auth.users where id = {buyer}",),
    "a document by its number": (
        "select * from public.payment_invoices where series = 'INV' and year = 2026 and number = 7",
    ),
    "a user reads their sessions": ("select * from public.payment_checkout_sessions",),
    "a user reads their balance": ("select * from public.payment_credit_balances",),
    "a user reads their credits": ("select * from public.payment_credit_entries",),
    "a user reads their subscriptions": ("select * from public.payment_subscriptions",),
    "a user reads their groups": ("select * from public.payment_groups",),
    "a user reads their contributions": ("select * from public.payment_contributions",),
    "a user reads their refunds": ("select * from public.payment_refunds",),
    "a user reads their documents": ("select * from public.payment_invoices",),
}  # fmt: skip


def explained() -> dict[str, list[str]]:
    """The uses of each index, as the page tells them."""
    page = (REPOSITORY / "docs/operations.md").read_text("utf-8")
    section = page.split("\n## Indexes\n")[1].split("\n## ")[0]
    return {
        index: [use for use in used_by.replace("`", "").strip().split(", ") if use]
        for index, used_by in _ROW.findall(section)
    }


@dataclass(frozen=True)
class Shop:
    """The filled database, and the open purchases and ids that the statements name."""

    db: Database
    names: Row

    def indexes_of(self, use: str) -> set[str]:
        """The indexes that the last statement of a use scanned."""
        plans: list[Any] = []
        role = "postgres" if use.startswith("a ") else "service_role"
        *before, last = (statement.format(**self.names) for statement in USES[use])
        with psycopg.connect(self.db.url(SUPERUSER)) as connection:
            connection.execute(EXPLAIN)
            connection.execute(f"set role {'authenticated' if use.startswith('a user reads') else role}".encode())
            claims = json.dumps({"sub": str(self.names["buyer_id"]), "role": "authenticated"})
            connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            for statement in before:
                connection.execute(statement.encode())
            connection.add_notice_handler(lambda notice: plans.append(notice.message_primary))
            connection.execute(last.encode())
            connection.rollback()
        found = (json.loads(plan.split("plan:", 1)[1])["Plan"] for plan in plans if plan and "plan:" in plan)
        return {index for plan in found for index in scanned(plan)}


def scanned(node: Row) -> Iterator[str]:
    """The indexes of a plan that were used."""
    if node["Actual Loops"]:
        yield from [node["Index Name"]] if "Index Name" in node else []
        yield from node.get("Conflict Arbiter Indexes", [])
        for child in node.get("Plans", []):
            yield from scanned(child)


def purchase(db: Database, plan: str, user: object, **arguments: Any) -> Row:
    """An open page, and what its provider will say once it is paid."""
    attempt = db.open_attempt(db.new_session(user, plan, **arguments))  # type: ignore[arg-type]
    return attempt | {"outcome": json.dumps(outcome(attempt))}


@pytest.fixture(scope="module")
def shop(server: LocalPostgres) -> Iterator[Shop]:
    url = server.create_look_alike(NAME)
    migrate(url)
    apply_files(url, [seed_file()])
    db = Database("127.0.0.1", server.port, NAME)
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        admin.execute((REPOSITORY / "tests/bench/fill.sql").read_bytes())
        admin.execute(f"call bench.fill({SESSIONS})".encode())
        with admin.transaction():
            admin.execute((REPOSITORY / "tests/sql/fill_the_rest.sql").read_bytes())
        admin.execute("vacuum analyze")
    buyer, member, group = (db.value(f"select {name}") for name in (BUYER, MEMBER, GROUP))
    paid = db.value(
        "select id from payment_checkout_sessions where status = 'completed' and user_id = %s limit 1", buyer
    )
    names = {
        "buyer": BUYER, "buyer_id": buyer, "paid": paid,
        "credits": purchase(db, "credits_500", buyer),
        "subscription": purchase(db, "pro_month", buyer),
        "place": purchase(db, "thing_2", db.new_user(), p_subject=str(group)),
        "contribution": purchase(db, "thing_1", member, p_subject=f"{group}:2"),
    }  # fmt: skip
    yield Shop(db, names)
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as admin:
        admin.execute(f"drop database {NAME} with (force)".encode())


def test_each_index_has_its_row(shop: Shop) -> None:
    indexes = shop.db.sql(
        "select relname from pg_class where relkind = 'i'"
        " and relnamespace in ('public'::regnamespace, 'payments'::regnamespace)"
    )
    assert sorted(explained()) == sorted(row["relname"] for row in indexes)


def test_who_guarantees_nothing_is_of_use(shop: Shop) -> None:
    plain = shop.db.sql("select indexrelid::regclass::text as name from pg_index where not indisunique")
    idle = {row["name"].split(".")[-1] for row in plain} & {index for index, uses in explained().items() if not uses}
    assert idle == set()


def test_each_use_that_is_named_is_known() -> None:
    assert {use for uses in explained().values() for use in uses} == set(USES)


@pytest.mark.parametrize("use", USES)
def test_a_use_scans_its_indexes(shop: Shop, use: str) -> None:
    promised = {index for index, uses in explained().items() if use in uses}
    assert promised <= shop.indexes_of(use)
