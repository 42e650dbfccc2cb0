"""docs/operations.md and docs/runbook.md are held to the migrations, the alerts, the benchmarks and the bridge."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from bridge.doctor.database import look_at_database
from bridge.errors import NothingToRetry, ProviderUnavailable, SetupError
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.metrics import figures
from bridge.migrations import Migration, migrate, packaged_migrations
from bridge.rpc import Claim, PostgresTransport, Rpc, Transport
from bridge.settings import Settings, load_settings
from bridge.simulators.paystack import PaystackSimulator
from bridge.simulators.paystack import sign as paystack_signature
from bridge.simulators.stripe import StripeSimulator
from bridge.simulators.stripe_world import sign
from bridge.values import Event, Outcome, Page
from tests.bridge.test_reconcile_command import command_settings
from tests.sql.test_alerts import INCIDENTS
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import run
from tests.support.database import REPOSITORY, Database, Row
from tests.support.drill import dump, restore, sql_under

PAGE = REPOSITORY / "docs/operations.md"
RUNBOOK = REPOSITORY / "docs/runbook.md"
NAME = "project_of_operations"
# those that make a purchase wait, the strongest first
STRONG = ["AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock"]

LOCKS = """
select l.relation::regclass::text as name, l.mode
from pg_locks as l
where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation = any(%s) and l.mode = any(%s)
"""
TABLES = """
select array_agg(c.oid)
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where c.relkind = 'r' and n.nspname in ('auth', 'public', 'payments')
"""

OLD_KEY = """
insert into payments.idempotency_keys (key, request_hash, status, leased_until, created_at, updated_at)
select 'old', 'h', 'completed', t.past, t.past, t.past
from (values (now() - interval '2 days')) as t (past)
"""


@pytest.fixture
def project(server: LocalPostgres) -> Iterator[Database]:
    """A project without our migrations."""
    server.create_look_alike(NAME)
    yield Database("127.0.0.1", server.port, NAME)
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as admin:
        admin.execute(f"drop database {NAME} with (force)".encode())


def row_of(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> str:
    """Apply a migration; its row in the table of locks."""
    (before,) = connection.execute(TABLES).fetchone() or ([],)
    connection.commit()
    connection.execute(migration.sql.encode())
    strongest: dict[str, str] = {}
    for name, mode in connection.execute(LOCKS, (before, STRONG)).fetchall():
        strongest[str(name)] = min(strongest.get(str(name), STRONG[-1]), str(mode), key=STRONG.index)
    connection.commit()
    seen = "; ".join(
        f"{', '.join(f'`{name}`' for name in sorted(strongest) if strongest[name] == mode)} {in_sql(mode)}"
        for mode in STRONG
        if mode in strongest.values()
    )
    return f"| `{migration.version}` {migration.name.replace('_', ' ')} | {seen or 'none'} | {said(migration.sql)} |"


def in_sql(mode: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


def said(migration: str) -> str:
    """What the header says of locks."""
    found = re.search(r"^-- Locks:\s+(.*?)^-- Undo:", migration, re.DOTALL | re.MULTILINE)
    assert found
    return " ".join(line.removeprefix("--").strip() for line in found[1].splitlines())


def test_what_each_migration_locks_is_listed(project: Database) -> None:
    section = PAGE.read_text("utf-8").split("\n## What migrations lock\n")[1].split("\n## ")[0]
    with psycopg.connect(project.url()) as connection:
        rows = [row_of(connection, migration) for migration in packaged_migrations()]
    assert re.findall(r"^\| `\d.*\|$", section, re.MULTILINE) == rows


class TestExistingProject:
    def test_what_is_in_the_way_is_shown_named_and_left_alone(self, project: Database) -> None:
        look = sql_under("## Into an existing project")
        assert project.sql(look) == []
        project.sql("create table public.payment_refunds (mine int)")
        assert [row["relname"] for row in project.sql(look)] == ["payment_refunds"]
        with pytest.raises(
            SetupError, match=r'create_coupon_group_and_refund_tables .*"payment_refunds" already exists'
        ):
            migrate(project.url())
        assert project.sql("select mine from public.payment_refunds") == []
        # what came before it stays, and it left nothing
        assert project.value("select to_regclass('public.payment_checkout_sessions') is not null")
        assert project.value("select to_regclass('payments.coupons') is null")
        project.sql("alter table public.payment_refunds rename to my_refunds")
        migrate(project.url())
        assert project.sql("select * from check_payment_invariants()") == []

    def test_nothing_else_is_created(self, project: Database) -> None:
        def others() -> list[Row]:
            return project.sql(
                "select rolname::text as name from pg_roles union all select extname::text from pg_extension"
                " union all select tgname::text from pg_trigger where not tgisinternal"
                " and tgrelid = any(array(select oid from pg_class where relnamespace = 'auth'::regnamespace))"
                " union all select nspname::text from pg_namespace"
                " where nspname not in ('payments', 'supabase_migrations') and nspname !~ '^pg_'"
            )

        before = others()
        migrate(project.url())
        assert others() == before


class Recording:
    """Passes calls on, and remembers which functions were called."""

    def __init__(self, transport: Transport) -> None:
        self.transport, self.called = transport, set[str]()

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        self.called.add(function)
        return await self.transport.call(function, arguments)

    def listen(self) -> AsyncGenerator[str, None]:
        return self.transport.listen()

    async def close(self) -> None:
        await self.transport.close()


@pytest.fixture
def login(db: Database) -> Iterator[str]:
    """The role that the page makes for the bridge."""
    statements = sql_under("## Who needs which rights")
    (name,) = re.findall(r"create role (\w+)", statements)
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        admin.execute(f"drop role if exists {name}".encode())
        db.sql(statements)
        db.sql(sql_under("## Who needs which rights", number=1))
        yield name
        admin.execute(f"drop owned by {name}".encode())
        admin.execute(f"drop role {name}".encode())


class TestLogin:
    def test_it_can_do_all_that_a_bridge_does(self, db: Database, login: str) -> None:
        db.sql(OLD_KEY)
        assert asyncio.run(everything_a_bridge_does(db, login)) == set(
            re.findall(r'_call\(\s*"(\w+)"', (REPOSITORY / "bridge/rpc/functions.py").read_text("utf-8"))
        )

    @pytest.mark.parametrize("role", ["pgcheckout_bridge", ""], ids=["direct", "behind a pooler"])
    def test_a_bridge_with_it_sells(self, db: Database, stripe: StripeSimulator, login: str, role: str) -> None:
        with running_bridge(db, stripe, database_url=db.url(login), database_role=role) as bridge:
            assert bridge.http.get("/readyz").status_code == 200
            buyer = bridge.buyer()
            page = bridge.attempt(buyer.checkout(provider="stripe").json()["session_id"])
            event = stripe.pay(page["provider_session_id"])[-1]
            assert bridge.deliver("stripe", stripe.sign(event)).json()["result"] == "applied"
            assert db.balance(buyer.id) == 100

    def test_the_doctor_finds_nothing_wrong_with_it(self, db: Database, login: str) -> None:
        found = list(look_at_database(db.url(login), login)) + list(look_at_database(db.url(login), ""))
        assert [finding for finding in found if finding.level != "ok"] == []

    def test_the_doctor_names_the_role_that_it_must_take(self, db: Database, login: str) -> None:
        (finding,) = [found for found in look_at_database(db.url(login), "service_role") if found.level != "ok"]
        assert (finding.subject, finding.remedy.split(":")[0]) == ("role", f"Set PGCHECKOUT_DATABASE_ROLE={login}")

    def test_it_has_no_more(self, db: Database, login: str) -> None:
        db.sql("create table public.secrets (t text); alter table public.secrets enable row level security;"
               "insert into public.secrets values ('x'); grant select on public.secrets to service_role")  # fmt: skip
        with psycopg.connect(db.url(login), autocommit=True) as connection:
            assert connection.execute("select * from public.secrets").fetchall() == []
            for refused in (
                "set role service_role", "set role postgres", "select * from payments.captures",
                "select * from auth.users", "update public.payment_checkout_sessions set status = 'completed'",
                "create table public.mine ()", "select payments.session_by_id(null)",
            ):  # fmt: skip
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(refused.encode())
        with psycopg.connect(db.url(SUPERUSER)) as admin:
            admin.execute("set role service_role")  # which is what it is kept from
            assert admin.execute("select * from public.secrets").fetchall() == [("x",)]


async def everything_a_bridge_does(db: Database, login: str) -> set[str]:
    """Make each call that bridges and workers make, as this login; the functions that were called."""
    settings = load_settings(_env_file=None, database_url=db.url(login), database_role=login)
    recording = Recording(await PostgresTransport.connect(settings))
    rpc, user = Rpc(recording), db.new_user()
    await buy(rpc, user)
    assert await rpc._apply_outcomes([{"outcome": {}, "event": None}]) == [None]
    await rpc.begin_idempotent_request("key", "hash", user)
    await rpc.finish_idempotent_request("key", Claim(1, None), {})
    await rpc.record_webhook_failure("stripe", Event(id="evt_1", type="t", payload={}), "wrong_mode", comes_again=False)
    await rpc.list_webhook_failures()
    open_session = await rpc.get_or_create_checkout_session(user, {"p_plan": "credits_500"})
    attempt = await rpc.open_checkout_attempt(open_session)
    assert attempt.number
    await rpc.attach_checkout_attempt(attempt.number, Page(provider_session_id="cs_2", url="https://pay.test/cs_2"))
    db.sql("update payments.attempts set reconcile_at = now() where session_id = %s", open_session)
    await rpc.list_unsettled_pages(None, None, None, 5)
    (due,) = await rpc.claim_sessions_to_reconcile(5)
    await rpc.finish_reconcile(due.session_id, asked=True, detail=None)
    db.sql("update public.payment_checkout_sessions set review_reason = 'overpaid' where id = %s", open_session)
    await rpc.add_session_note(open_session, "asked the buyer")
    await rpc.close_review(open_session, "gave it back", "overpaid")
    with pytest.raises(NothingToRetry):
        await rpc.retry_fulfilment(open_session)
    for letter in await rpc.claim_notifications(5):
        await rpc.finish_notification(letter.number, None)
    db.sql("update payments.notifications set status = 'dead'")
    for dead in await rpc.list_dead_notifications():
        await rpc.retry_notification(dead.number)
    await rpc.report_trouble("signature_failures", "stripe", 1)
    await rpc.watch_payments()
    for alert in await rpc.claim_alerts(5):
        await rpc.finish_alert(alert.number, None)
    await rpc.close_webhook_failure("stripe", "evt_1", "not ours")
    await rpc.audit_payments()
    await rpc.payment_report(7)
    await rpc.payment_health()
    (session, *_) = await rpc.list_checkout_sessions(None, 5)
    await rpc.checkout_session_story(UUID(session["session_id"]))
    await rpc.expire_old_checkout_sessions()
    await rpc.enqueue_payment_reminders()
    await rpc.number_payment_invoices()
    assert await rpc.clean_up() == 1
    await rpc.record_heartbeat("worker")
    await rpc.check()
    listening = rpc.listen()
    assert await anext(listening) == ""
    await listening.aclose()
    await rpc.close()
    return recording.called


async def buy(rpc: Rpc, user: UUID) -> None:
    session_id = await rpc.get_or_create_checkout_session(user, {"p_plan": "credits_100", "p_email": "ada@buyer.test"})
    attempt = await rpc.open_checkout_attempt(session_id)
    assert attempt.number
    await rpc.abandon_checkout_attempt(attempt.number, ProviderUnavailable("away"))
    attempt = await rpc.open_checkout_attempt(session_id)
    assert attempt.number
    await rpc.attach_checkout_attempt(attempt.number, Page(provider_session_id="cs_1", url="https://pay.test/cs_1"))
    await rpc.find_checkout_attempt(session_id=session_id, user_id=user)
    paid = Outcome(
        provider="stripe", status="completed", source="webhook", reference=attempt.reference,
        provider_payment_id="pi_1", amount=attempt.amount, currency=attempt.currency,
    )  # fmt: skip
    assert (await rpc.apply_payment_outcome(paid, Event(id="evt_0", type="t", payload={}))).status == "completed"


class TestRollingOver:
    def test_each_secret_has_its_row(self) -> None:
        section = PAGE.read_text("utf-8").split("\n## Keys\n")[1].split("\n## ")[0]
        named = set(re.findall(r"`([A-Z_]+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
        assert {
            name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
        } <= named

    def test_a_secret_of_stripe(self, db: Database, stripe: StripeSimulator) -> None:
        old, new = stripe.webhook_secret, "whsec_of_tomorrow"
        accepted = [f"{old}", f"{new},{old}", new]
        signed_with = [[old], [old, new], [new]]  # as long as the old one lives, Stripe signs with both
        for secrets, keys in zip(accepted, signed_with, strict=True):
            with running_bridge(db, stripe, stripe_webhook_secrets=secrets) as bridge:
                for known in keys:
                    assert sell(bridge, stripe, [known]) == "applied"
                assert sell(bridge, stripe, keys) == "applied"
                assert sell(bridge, stripe, ["whsec_of_a_thief"]) == "signature_invalid"
        with running_bridge(db, stripe, stripe_webhook_secrets=new) as bridge:
            assert sell(bridge, stripe, [old]) == "signature_invalid"

    def test_a_key_of_paystack(self, db: Database) -> None:
        db.new_product("yam", NGN=50_000)
        with PaystackSimulator() as account:
            old, new = account.secret_key, f"sk_test_{'n' * 40}"
            for accepted, key in ((old, old), (f"{new},{old}", old), (f"{new},{old}", new), (new, new)):
                account.secret_key = new if accepted.startswith(new) else old  # the one that makes calls
                with running_bridge(db, account, paystack_secret_keys=accepted, paystack_source_ips="") as bridge:
                    answer = bridge.buyer().checkout("yam", provider="paystack", currency="NGN").json()
                    ((headers, body),) = account.buyer_pays(answer["checkout_url"], lambda _: None)  # type: ignore[arg-type,return-value]
                    delivery = headers | {"x-paystack-signature": paystack_signature(body, key)}, body
                    assert bridge.deliver("paystack", delivery).json()["result"] == "applied"


def sell(bridge: Bridge, stripe: StripeSimulator, secrets: list[str]) -> str:
    """A purchase whose webhook is signed with these; what became of it. One that was refused comes again."""
    page = bridge.attempt(bridge.buyer().checkout(provider="stripe").json()["session_id"])
    headers, body = stripe.sign(stripe.pay(page["provider_session_id"])[-1])
    at = int(time.time())
    digests = [sign(body, secret, at).partition(",")[2] for secret in secrets]
    answer = bridge.deliver("stripe", (headers | {"stripe-signature": ",".join([f"t={at}", *digests])}, body)).json()
    applied = "result" in answer
    assert bridge.db.session(page["session_id"])["status"] == ("completed" if applied else "pending")
    return str(answer["result"] if applied else answer["error"]["reason"])


class TestCapacity:
    def test_its_figures_are_those_of_the_benchmarks(self) -> None:
        benchmarks = (REPOSITORY / "docs/benchmarks.md").read_text("utf-8")
        section = PAGE.read_text("utf-8").split("\n## Capacity\n")[1].split("\n## ")[0]
        for clients in ("1 client", "8 clients"):
            table = benchmarks.split(f"\n### {clients}\n")[1].split("\n### ")[0]
            (speed,) = re.findall(r"^\| purchase \| (\S+) \|", table, re.MULTILINE)
            assert f"| purchases, {clients} | {speed}/s |" in section
        (wal,) = re.findall(r"^\| purchase \|.*\| ([\d,]+) \| \d+ \| \d+% \|$", table, re.MULTILINE)
        assert f"| WAL of a purchase | {int(wal.replace(',', '')) / 1000:.1f} kB |" in section
        (webhooks,) = re.findall(r"^\| webhook, 0% duplicates \| (\S+) \|", benchmarks, re.MULTILINE)
        assert f"| {webhooks}/s |" in section
        assert "10 million sessions need 25 GB" in benchmarks.replace("\n", " ")
        assert "(25 GB for 10 million)" in section
        (events,) = re.findall(r"^\| `payments.webhook_events` \| ([\d,]+) ", benchmarks, re.MULTILINE)
        assert f"({events} MB for 2.1 million)" in section


class TestAlerts:
    def test_each_kind_has_its_entry(self, db: Database) -> None:
        (kinds,) = db.sql(
            "select pg_get_constraintdef(oid) as text from pg_constraint where conname = 'alerts_kind_is_known'"
        )
        alerts = RUNBOOK.read_text("utf-8").split("\n## Alerts\n")[1].split("\n## ")[0]
        sections = dict(re.findall(r"^### ([a-z_]+)\n(.*?)(?=^### |\Z)", alerts, re.DOTALL | re.MULTILINE))
        assert set(sections) == set(re.findall(r"'(\w+)'", kinds["text"])) == {*INCIDENTS, "broken_invariant"}
        for text in sections.values():
            means, _, rest = text.partition("```sql")
            assert means.strip()
            assert "\nOver: " in rest

    @pytest.mark.parametrize("kind", [*INCIDENTS, "broken_invariant"])
    def test_the_query_of_a_kind_shows_its_incident(self, db: Database, kind: str) -> None:
        look = sql_under(f"### {kind}", RUNBOOK)
        assert db.sql(look) == []
        if kind in INCIDENTS:
            INCIDENTS[kind][0](db)
        else:
            db.complete(db.new_session(), p_provider_payment_id="pi_1")
            db.sql("update public.payment_credit_balances set balance = balance + 1")
        assert db.sql(look)
        db.as_service().rpc("audit_payments")
        db.as_service().rpc("watch_payments")
        (alert,) = db.sql(sql_under("## Alerts", RUNBOOK))
        assert alert["kind"] == kind

    def test_each_figure_has_its_line(self, db: Database) -> None:
        section = RUNBOOK.read_text("utf-8").split("\n## What metrics tell\n")[1].split("\n## ")[0]
        for metric in figures(db.as_service().rpc("payment_health")):
            assert f"`{metric.name}" in section, metric.name
            for sample in metric.samples:
                if metric.name == "pgcheckout_queue_age_seconds":
                    assert f'queue="{sample.labels["queue"]}"' in section


class TestAnEarlierMoment:
    def test_what_the_providers_know_comes_back_once(
        self, server: LocalPostgres, db: Database, project: Database, stripe: StripeSimulator, tmp_path: Path
    ) -> None:
        with running_bridge(db, stripe) as bridge:
            begun, sold = start(bridge), start(bridge)
            tell(bridge, stripe, stripe.pay(sold.page)[-1])
            dump(server, db.url(), tmp_path)
            # what the backup does not have: one is paid, one is given back, a third one is begun and paid
            paid = stripe.pay(begun.page)[-1]
            tell(bridge, stripe, paid)
            back = stripe.refund(db.session(sold.session_id)["provider_payment_id"], 500)[-1]
            tell(bridge, stripe, back)
            unknown = start(bridge)
            new_money = stripe.pay(unknown.page)[-1]
            tell(bridge, stripe, new_money)
            assert [db.balance(buyer) for buyer in (begun.buyer, sold.buyer, unknown.buyer)] == [100, 0, 100]
        restore(server, project.url(), tmp_path)
        project.sql(sql_under("### Back to an earlier moment"))
        with running_bridge(project, stripe) as bridge:
            assert project.session(begun.session_id)["status"] == "pending"
            done = run(tmp_path, "reconcile", "--since", "16d", "--json", **command_settings(bridge, stripe))
            summary = json.loads(done.out)
            assert (done.code, summary["asked"], summary["repaired"]) == (0, 1, 1)
            assert project.balance(begun.buyer) == 100
            # the events of those days, again: the first is news of money that is known
            assert [tell(bridge, stripe, event) for event in (paid, back, back)] == ["applied", "applied", "duplicate"]
            assert (project.balance(begun.buyer), project.balance(sold.buyer)) == (100, 0)
            assert project.session(sold.session_id)["status"] == "refunded"
            assert tell(bridge, stripe, new_money) == "session_not_found"
        unknown_ones, dealt_with = sql_under("### Back to an earlier moment", number=1).split(";\n")[:2]
        (kept,) = project.sql(unknown_ones)
        self.sold_by_hand(project, kept)
        project.sql(dealt_with.replace("evt_0000", kept["event_id"]))
        assert project.sql(unknown_ones) == []
        documents = project.sql("select series, number from public.payment_invoices order by issued_at, series desc")
        assert [(row["series"], row["number"]) for row in documents] == [
            ("INV", 1), ("INV-R1", 1), ("CN-R1", 1), ("INV-R1", 2)
        ]  # fmt: skip
        for table, number in (("payments.attempts", "number"), ("payments.notifications", "id")):
            old, new = (one.value(f"select max({number}) from {table}") for one in (db, project))
            assert new > old + 1000, table
        assert project.sql("select * from check_payment_invariants()") == []

    def sold_by_hand(self, project: Database, event: Row) -> None:
        """A session for who paid what nobody knew, and the payment's id."""
        session_id = project.new_session(p_email="ada@buyer.test")
        project.open_attempt(session_id)
        project.complete(session_id, p_provider_payment_id=event["payload"]["data"]["object"]["payment_intent"])
        assert project.state(session_id) == ("completed", "fulfilled", None)


class Begun(NamedTuple):
    """A purchase whose page is open."""

    buyer: UUID
    session_id: str
    page: str


def start(bridge: Bridge) -> Begun:
    buyer = bridge.buyer(email="ada@buyer.test")
    session_id = buyer.checkout(provider="stripe").json()["session_id"]
    return Begun(buyer.id, session_id, bridge.attempt(session_id)["provider_session_id"])


def tell(bridge: Bridge, stripe: StripeSimulator, event: Row) -> str:
    """Deliver an event; what became of it."""
    answer = bridge.deliver("stripe", stripe.sign(event)).json()
    return str(answer["result"] if "result" in answer else answer["error"]["reason"])
