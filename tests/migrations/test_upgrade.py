"""From the last release to this one, in a shop with data and traffic: nothing is lost and everything goes on."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from bridge import migrations
from bridge.errors import SetupError
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, packaged_migrations, pending_migrations, seed_file
from tests.migrations.conftest import NewDatabase
from tests.support.database import Database, Row, apply_files, call, is_stable, outcome, refused
from tests.support.schema import apply_source, describe, difference

LAST_RELEASE = "20261121000003"  # version of its last migration
OLD_SHOP = "shop_of_the_last_release"
NEW_MIGRATIONS = [migration for migration in packaged_migrations() if migration.version > LAST_RELEASE]
STEPS = [migration.version for migration in NEW_MIGRATIONS]
TRY_AGAIN = {"55P03", "40P01", "PT503"}  # lock_not_available, deadlock_detected, try_again: nothing was done
WAIT = 30  # seconds until a waiter is given up; nothing here takes long

# as the documents of the last release taught it, and one that cannot deliver
HOST_APPLICATION = """
create schema host;
create table host.gift_cards (session_id uuid primary key, value bigint);

create function payments.fulfil_gift_card(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into host.gift_cards values (p_session.id, (p_session.terms ->> 'value')::bigint);
    return jsonb_build_object('kind', 'gift_card', 'value', p_session.terms -> 'value');
end;
$$;

create function payments.fulfil_raffle(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
as $$
begin
    raise exception 'The drum is stuck.' using errcode = 'PT409', detail = 'drum_stuck';
end;
$$;

revoke all on function payments.fulfil_gift_card(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

insert into payments.fulfilment_handlers (kind, fulfil_function)
values ('gift_card', 'payments.fulfil_gift_card'), ('raffle', 'payments.fulfil_raffle');
"""
REVERSE_GIFT_CARD = """
create function payments.reverse_gift_card(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
as $$
begin
    update host.gift_cards
    set value = (p_session.terms ->> 'value')::bigint * (1 - p_share)
    where session_id = p_session.id;
    return jsonb_build_object('share', p_share);
end;
$$;

update payments.fulfilment_handlers set reverse_function = 'payments.reverse_gift_card' where kind = 'gift_card';
"""


class Story:
    """What happened in the shop before the upgrade; sessions and pages have names."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.sessions: dict[str, uuid.UUID] = {}
        self.pages: dict[str, Row] = {}
        self.tell()

    def session(
        self, name: str, plan: str = "credits_100", user: uuid.UUID | None = None, **arguments: Any
    ) -> uuid.UUID:
        buyer = user or self.db.new_user(f"{name}@example.test")
        self.sessions[name] = self.db.new_session(buyer, plan, **({"p_email": f"{name}@example.test"} | arguments))
        return buyer

    def page(self, name: str, plan: str = "credits_100", user: uuid.UUID | None = None, **arguments: Any) -> uuid.UUID:
        buyer = self.session(name, plan, user, **arguments)
        self.pages[name] = self.db.open_attempt(self.sessions[name], f"cs_{name}")
        return buyer

    def paid(self, name: str, plan: str = "credits_100", user: uuid.UUID | None = None, **changes: Any) -> uuid.UUID:
        buyer = self.page(name, plan, user)
        self.pay(name, **changes)
        return buyer

    def pay(self, name: str, status: str = "completed", **changes: Any) -> None:
        paid = {"provider_payment_id": f"pi_{name}"} if status == "completed" else {}
        self.db.apply(self.pages[name], status, f"evt_{name}", **(paid | changes))

    def lapse(self, name: str) -> None:
        self.db.lapse(self.sessions[name])
        assert self.db.as_service().rpc("expire_old_checkout_sessions") == 1

    def tell(self) -> None:
        self.page("paid_last")
        self.tell_of_paid_ones()
        self.tell_of_trouble()
        self.tell_of_open_ones()
        self.tell_of_ended_ones()
        self.tell_of_the_rest()
        self.pay("paid_last")

    def tell_of_paid_ones(self) -> None:
        db = self.db
        self.paid("paid_first")
        self.paid("paid_last_year")
        db.sql(
            "update public.payment_checkout_sessions set completed_at = completed_at - interval '1 year' where id = %s",
            self.sessions["paid_last_year"],
        )
        self.page("paid_by_page")
        db.complete(self.sessions["paid_by_page"], p_stripe_session_id="cs_paid_by_page", p_stripe_customer_id="cus_1")
        pro = self.paid("pro", "pro_month")
        self.paid("pro_again", "pro_month", pro)
        spender = self.paid("spent")
        db.as_service().rpc(
            "spend_credits", p_user_id=spender, p_amount=60, p_reason="a poem", p_idempotency_key="spend-1"
        )
        self.page("paid_late")
        self.lapse("paid_late")
        self.pay("paid_late")
        db.new_product("card", "gift_card", {"value": 2500}, USD=2500)
        self.paid("gift", "card")
        self.page("gift_waiting", "card")

    def tell_of_trouble(self) -> None:
        db = self.db
        self.paid("paid_twice")
        db.apply(self.pages["paid_twice"], event="evt_again", provider_payment_id="pi_again")
        self.paid("overpaid", amount=700)
        self.paid("underpaid", amount=100)
        self.paid("paid_otherwise", currency="NGN")
        db.new_product("ticket", "raffle", USD=300)
        self.paid("undelivered", "ticket")
        self.paid("refund_reported")
        page = self.pages["refund_reported"]
        report_refund(db, page, "pi_refund_reported", 500, refund_id="re_reported", event="evt_reported")
        self.paid("disputed")
        report(db, self.pages["disputed"], "pi_disputed", "evt_disputed", disputed=True)

    def tell_of_open_ones(self) -> None:
        self.page("waiting", p_idempotency_key="key-waiting", p_currency="usd", p_price=5, p_metadata={"n": 1})
        self.session("bare", p_idempotency_key="key-bare", p_subject="a friend", p_email="friend@example.test")
        self.page("processing")
        self.pay("processing", "processing")
        self.session("abandoned")
        attempt = self.db.as_service().rpc("open_checkout_attempt", p_session_id=self.sessions["abandoned"])
        self.db.as_service().rpc("abandon_checkout_attempt", p_attempt=attempt["number"], p_error_code="provider_down")
        buyer = self.page("superseded")
        self.session("superseding", user=buyer, p_currency="NGN")

    def tell_of_ended_ones(self) -> None:
        self.page("expired")
        self.lapse("expired")
        self.page("forgotten")
        self.lapse("forgotten")
        self.db.sql(
            "update payments.attempts set created_at = now() - interval '20 days' where session_id = %s",
            self.sessions["forgotten"],
        )
        self.page("declined")
        self.pay("declined", "failed", error_code="card_declined", error_message="No.")
        self.page("cancelled")
        self.db.close(self.sessions["cancelled"])

    def tell_of_the_rest(self) -> None:
        service = self.db.as_service()
        for name, pays in (("deleted_paid", True), ("deleted_unpaid", False)):
            buyer = self.page(name)
            if pays:
                self.pay(name)
            self.db.sql("delete from auth.users where id = %s", buyer)
        self.pay("deleted_unpaid")  # nobody is left to fulfil it for
        for event, retryable in (("evt_failed", True), ("evt_dead", False)):
            service.rpc(
                "record_webhook_failure",
                p_provider="stripe", p_event={"id": event, "type": "t", "payload": {}}, p_error="session_not_found",
                p_retryable=retryable,
            )  # fmt: skip
        for key in ("done", "failed", "held"):
            service.rpc("begin_idempotent_request", p_key=key, p_request_hash="h")
        self.db.sql("update payments.idempotency_keys set leased_until = now() + interval '1 hour' where key = 'held'")
        for key, status in (("done", "completed"), ("failed", "failed")):
            service.rpc("finish_idempotent_request", p_key=key, p_status=status, p_response=Jsonb({"n": 7}))


def migrate_up_to(db: Database, version: str) -> None:
    """What `pgcheckout migrate` does in the release whose last migration this is."""
    with pytest.MonkeyPatch.context() as patch:
        known = [migration for migration in packaged_migrations() if migration.version <= version]
        patch.setattr(migrations, "packaged_migrations", lambda: known)
        migrate(db.url())
    is_stable.cache_clear()  # an upgrade may make a function volatile


def upgrade(db: Database) -> None:
    """What `pgcheckout migrate` does now."""
    migrate(db.url())
    is_stable.cache_clear()


def as_superuser(server: LocalPostgres, statement: str, **names: str) -> None:
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as connection:
        quoted = {key: sql.Identifier(name) for key, name in names.items()}
        connection.execute(sql.SQL(statement).format(**quoted))


@pytest.fixture(scope="module")
def story(server: LocalPostgres) -> Iterator[Story]:
    """The shop as the last release left it; a template for the databases of the tests."""
    url = server.create_look_alike(OLD_SHOP)
    db = Database("127.0.0.1", server.port, OLD_SHOP)
    migrate_up_to(db, LAST_RELEASE)
    apply_files(url, [seed_file()])
    db.sql(HOST_APPLICATION)
    yield Story(db)
    as_superuser(server, "drop database {name} with (force)", name=OLD_SHOP)


@contextlib.contextmanager
def clone(server: LocalPostgres, template: Database) -> Iterator[Database]:
    name = f"upgrade_{uuid.uuid4().hex[:12]}"
    as_superuser(server, "create database {name} template {template}", name=name, template=template.name)
    # a cloned database does not inherit the grants on its template
    as_superuser(server, "grant all on database {name} to postgres", name=name)
    yield Database(template.host, template.port, name)
    as_superuser(server, "drop database {name} with (force)", name=name)


@pytest.fixture
def shop(server: LocalPostgres, story: Story) -> Iterator[Database]:
    """A shop of the last release, with data, that this test may upgrade."""
    with clone(server, story.db) as db:
        yield db


@pytest.fixture(scope="module")
def new_shop(server: LocalPostgres, story: Story) -> Iterator[Database]:
    """The same shop after the upgrade; a template for the databases of the tests."""
    with clone(server, story.db) as db:
        upgrade(db)
        yield db


@pytest.fixture
def upgraded(server: LocalPostgres, new_shop: Database) -> Iterator[Database]:
    """A shop that was upgraded with its data, and that this test may use."""
    with clone(server, new_shop) as db:
        yield db


@pytest.fixture
def ids(story: Story) -> dict[str, uuid.UUID]:
    return story.sessions


@pytest.fixture
def pages(story: Story) -> dict[str, Row]:
    return story.pages


def broken(db: Database) -> Any:
    return db.as_service().rpc("check_payment_invariants")


def buyer_of(db: Database, session_id: uuid.UUID) -> uuid.UUID:
    user_id = db.session(session_id)["user_id"]
    assert isinstance(user_id, uuid.UUID)
    return user_id


def rows(db: Database) -> dict[str, list[Row]]:
    """All rows of all tables of the engine, column by column."""
    tables = db.sql(
        "select c.oid::regclass::text as name from pg_class as c"
        " where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'payments'::regnamespace)"
    )
    return {
        table["name"]: [row["row"] for row in db.sql(f"select to_jsonb(t) as row from {table['name']} as t")]
        for table in tables
    }


def sorted_rows(some: list[Row], columns: set[str]) -> list[str]:
    return sorted(repr({column: row[column] for column in sorted(columns)}) for row in some)


def documents(db: Database, session_id: uuid.UUID) -> list[tuple[str, int]]:
    """The documents of a session: kind and amount, in the order of their issue."""
    found = db.sql(
        "select kind, amount from public.payment_invoices where session_id = %s order by issued_at, kind desc",
        session_id,
    )
    return [(row["kind"], row["amount"]) for row in found]


def refund(db: Database, session_id: uuid.UUID, amount: int, refund_id: str = "re_1") -> Row:
    answer: Row = db.as_service().rpc(
        "refund_checkout_session", p_session_id=session_id, p_provider_refund_id=refund_id, p_amount=amount
    )
    return answer


def report(db: Database, page: Row, payment: str, event: str, **said: Any) -> Row:
    """The provider says something about a payment that is not news of the payment itself."""
    answer: Row = db.as_service().rpc(
        "apply_payment_outcome",
        p_outcome=outcome(page, "pending") | {"status": None, "provider_payment_id": payment, **said},
        p_event={"id": event, "type": "charge.updated", "payload": {}},
    )
    return answer


def report_refund(
    db: Database, page: Row, payment: str, amount: int, *, refund_id: str = "re_1", event: str = "evt_refund"
) -> Row:
    refunds = [{"provider_refund_id": refund_id, "amount": amount, "status": "succeeded"}]
    return report(db, page, payment, event, refunds=refunds)


def buy(db: Database, plan: str = "credits_100") -> uuid.UUID:
    """A purchase from its beginning to its end."""
    session_id = db.new_session(plan=plan)
    db.apply(db.open_attempt(session_id, f"cs_{session_id}"), provider_payment_id=f"pi_{session_id}")
    return session_id


def start_until_it_waits_or_ends(db: Database, job: Callable[[], Any], waiting: int = 1) -> Future[Any]:
    """Start a job in a thread; returns once the server sees so many waiting for a lock, or once the job is done."""
    pool = ThreadPoolExecutor(1)
    running = pool.submit(job)
    pool.shutdown(wait=False)
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while not running.done() and db.value(waits) < waiting:
        time.sleep(0.01)
    return running


class Crowd:
    """Buyers who buy one thing after the other until they have had enough."""

    def __init__(self, db: Database, size: int) -> None:
        self.db = db
        self.bought: list[uuid.UUID] = []
        self.trouble: list[str | None] = []
        self.enough = threading.Event()
        self.buyers = [threading.Thread(target=self._buy_all_the_time, daemon=True) for _ in range(size)]

    def buy(self, count: int) -> None:
        """Return when they have bought so many things more."""
        wanted = len(self.bought) + count
        while len(self.bought) < wanted:
            assert all(buyer.is_alive() for buyer in self.buyers)
            time.sleep(0.01)

    def _buy_all_the_time(self) -> None:
        while not self.enough.is_set():
            try:
                self.bought.append(buy(self.db))
            except psycopg.Error as error:
                self.trouble.append(error.sqlstate)


@contextlib.contextmanager
def crowd(db: Database, size: int) -> Iterator[Crowd]:
    buyers = Crowd(db, size)
    for buyer in buyers.buyers:
        buyer.start()
    try:
        yield buyers
    finally:
        buyers.enough.set()
        for buyer in buyers.buyers:
            buyer.join(WAIT)


def upgrade_with_patience(db: Database) -> None:
    """Again and again, as the error advises, until a moment is quiet enough."""
    for _ in range(5):
        try:
            return upgrade(db)
        except SetupError as error:
            if "quieter moment" not in error.hint:
                raise
    raise AssertionError("no moment was quiet enough")


class TestWhatTheUpgradeDoes:
    def test_it_applies_what_is_new_and_then_there_is_nothing_to_do(self, shop: Database) -> None:
        assert migrate(shop.url()) == NEW_MIGRATIONS
        assert migrate(shop.url()) == []

    def test_the_schema_is_what_the_source_says(
        self, server: LocalPostgres, new_database: NewDatabase, upgraded: Database
    ) -> None:
        name, url = new_database()
        apply_source(url)
        Database(upgraded.host, upgraded.port, name).sql(HOST_APPLICATION)
        assert not difference(describe(server, name), describe(server, upgraded.name), "sql/", "upgraded")

    def test_no_row_is_lost_or_changed(self, shop: Database) -> None:
        before = rows(shop)
        assert [table for table, found in before.items() if not found] == [], "a table that the story forgot"
        upgrade(shop)
        after = rows(shop)
        handlers = "payments.fulfilment_handlers"
        added = [row for row in after[handlers] if row["kind"] not in {old["kind"] for old in before[handlers]}]
        assert {row["kind"] for row in added} == {"group_create", "group_join", "contribution"}
        after[handlers] = [row for row in after[handlers] if row not in added]
        for table, old in before.items():
            columns = set(old[0])
            assert sorted_rows(after[table], columns) == sorted_rows(old, columns), table

    def test_nothing_is_written_to_the_new_tables_but_invoices(self, shop: Database) -> None:
        before = rows(shop)
        upgrade(shop)
        written = {table for table, found in rows(shop).items() if found} - before.keys()
        assert written == {"payment_invoices", "payments.invoice_counters"}

    def test_every_guarantee_holds_before_and_after(self, shop: Database) -> None:
        assert broken(shop) == []
        upgrade(shop)
        assert broken(shop) == []

    def test_every_paid_session_has_one_invoice_numbered_in_the_order_of_payment(
        self, upgraded: Database, ids: dict[str, uuid.UUID]
    ) -> None:
        paid = upgraded.sql(
            "select id, amount, currency, original_amount, product_id, user_id, provider, provider_payment_id,"
            " completed_at, email from public.payment_checkout_sessions where completed_at is not null"
            " order by completed_at"
        )
        invoices = upgraded.sql("select * from public.payment_invoices order by number")
        assert [invoice["number"] for invoice in invoices] == list(range(1, len(paid) + 1))
        assert {(invoice["kind"], invoice["series"]) for invoice in invoices} == {("invoice", "INV")}
        for session, invoice in zip(paid, invoices, strict=True):
            wanted = session | {"session_id": session["id"], "paid_at": session["completed_at"]}
            assert wanted == wanted | {column: invoice[column] for column in wanted.keys() & invoice.keys()}
        order = [invoice["session_id"] for invoice in invoices]
        assert (order[0], order[-1]) == (ids["paid_last_year"], ids["paid_last"])
        assert ids["paid_last"] == min(order)  # the oldest session was paid last
        assert upgraded.value("select last_number from payments.invoice_counters") == len(paid)
        assert upgraded.value("select count(*) from payments.unnumbered_invoices") == 0
        new = buy(upgraded)
        assert upgraded.value("select number from public.payment_invoices where session_id = %s", new) == len(paid) + 1

    def test_giving_old_sessions_their_numbers_writes_the_counter_once(self, new_shop: Database) -> None:
        # one write for each makes each read slower than the one before: hours in a shop with many sales
        written = "select n_tup_ins + n_tup_upd from pg_stat_user_tables where relname = 'invoice_counters'"
        assert new_shop.value("select count(*) from public.payment_invoices") > 10
        assert new_shop.value(written) == 1

    def test_pages_that_can_still_be_paid_are_in_the_queue(self, upgraded: Database, ids: dict[str, uuid.UUID]) -> None:
        claimed = upgraded.as_service().rpc("claim_sessions_to_reconcile")
        names = {name for name, session_id in ids.items() if session_id in {row["session_id"] for row in claimed}}
        assert len(claimed) == len(names)
        assert names == {"waiting", "gift_waiting", "processing", "expired", "cancelled", "superseded",
                         "underpaid", "paid_otherwise"}  # fmt: skip
        assert {row["tries"] for row in claimed} == {1}
        assert upgraded.as_service().rpc("claim_sessions_to_reconcile") == []
        for row in claimed:
            upgraded.as_service().rpc("finish_reconcile", p_session_id=row["session_id"], p_result="asked")
        assert upgraded.value(
            "select reconcile_at > now() from payments.attempts where session_id = %s", ids["waiting"]
        )
        assert broken(upgraded) == []


class TestOldSessions:
    @pytest.mark.parametrize(
        "name", ["waiting", "processing", "expired", "forgotten", "declined", "cancelled", "superseded"]
    )
    def test_each_can_still_be_paid(
        self, upgraded: Database, ids: dict[str, uuid.UUID], pages: dict[str, Row], name: str
    ) -> None:
        answer = upgraded.apply(pages[name], event="evt_new", provider_payment_id="pi_new")
        assert (answer["status"], answer["fulfilment_status"], answer["already_completed"]) == (
            "completed", "fulfilled", False
        )  # fmt: skip
        assert upgraded.entries(buyer_of(upgraded, ids[name])) == [100]
        assert documents(upgraded, ids[name]) == [("invoice", 500)]
        assert upgraded.value("select count(*) from payments.notifications where kind = 'receipt'") == 1
        assert broken(upgraded) == []

    @pytest.mark.parametrize("name", ["bare", "abandoned", "superseding"])
    def test_each_without_a_page_gets_one_and_can_be_paid(
        self, upgraded: Database, ids: dict[str, uuid.UUID], name: str
    ) -> None:
        page = upgraded.open_attempt(ids[name], "cs_new")
        assert upgraded.apply(page)["status"] == "completed"
        assert broken(upgraded) == []

    def test_a_waiting_page_is_shown_again_rather_than_opened_twice(
        self, upgraded: Database, ids: dict[str, uuid.UUID], pages: dict[str, Row]
    ) -> None:
        attempt = upgraded.as_service().rpc("open_checkout_attempt", p_session_id=ids["waiting"])
        assert (attempt["number"], attempt["reference"]) == (pages["waiting"]["number"], pages["waiting"]["reference"])

    def test_lapsed_ones_expire_and_buyers_can_cancel(self, upgraded: Database, ids: dict[str, uuid.UUID]) -> None:
        for name in ("waiting", "processing"):
            upgraded.lapse(ids[name])
        assert upgraded.as_service().rpc("expire_old_checkout_sessions") == 2
        buyer = upgraded.as_user(buyer_of(upgraded, ids["bare"]))
        buyer.rpc("cancel_checkout_session", p_session_id=ids["bare"])
        states = [upgraded.state(ids[name])[0] for name in ("waiting", "processing", "bare")]
        assert states == ["expired", "expired", "cancelled"]
        assert broken(upgraded) == []

    @pytest.mark.parametrize("name", ["paid_first", "paid_last_year", "paid_by_page", "paid_late"])
    def test_a_full_refund_takes_the_purchase_back_once(
        self, upgraded: Database, ids: dict[str, uuid.UUID], name: str
    ) -> None:
        assert refund(upgraded, ids[name], 500)["refunded_amount"] == 500
        assert upgraded.state(ids[name]) == ("refunded", "reversed", None)
        assert upgraded.balance(buyer_of(upgraded, ids[name])) == 0
        assert documents(upgraded, ids[name]) == [("invoice", 500), ("credit_note", -500)]
        before = upgraded.everything()
        refund(upgraded, ids[name], 500)
        assert upgraded.everything() == before
        assert broken(upgraded) == []

    def test_a_partial_refund_takes_its_share_and_a_refund_of_spent_credits_what_is_left(
        self, upgraded: Database, ids: dict[str, uuid.UUID]
    ) -> None:
        refund(upgraded, ids["paid_first"], 200)
        assert upgraded.state(ids["paid_first"]) == ("partially_refunded", "fulfilled", None)
        assert upgraded.balance(buyer_of(upgraded, ids["paid_first"])) == 60
        refund(upgraded, ids["spent"], 500, "re_2")
        assert upgraded.balance(buyer_of(upgraded, ids["spent"])) == 0
        assert upgraded.sql(
            "select owed, taken from payments.credit_clawbacks where session_id = %s", ids["spent"]
        ) == [{"owed": 100, "taken": 40}]
        assert broken(upgraded) == []

    def test_a_refund_of_one_of_two_periods_ends_the_subscription_a_period_earlier(
        self, upgraded: Database, ids: dict[str, uuid.UUID]
    ) -> None:
        buyer = buyer_of(upgraded, ids["pro"])
        ends_at = "select ends_at from public.payment_subscriptions where user_id = %s"
        (first,) = upgraded.sql("select ends_at from payments.subscription_periods where session_id = %s", ids["pro"])
        assert upgraded.value(ends_at, buyer) > first["ends_at"]
        refund(upgraded, ids["pro_again"], 1200)
        assert upgraded.value(ends_at, buyer) == first["ends_at"]
        assert broken(upgraded) == []

    @pytest.mark.parametrize(
        ("name", "back", "state"),
        [("paid_twice", ("pi_again", 500), ("completed", "fulfilled")),
         ("overpaid", ("pi_overpaid", 200), ("completed", "fulfilled")),
         ("underpaid", ("pi_underpaid", 100), ("failed", "none")),
         ("paid_otherwise", ("pi_paid_otherwise", 500), ("failed", "none")),
         ("undelivered", ("pi_undelivered", 300), ("refunded", "reversed"))],
    )  # fmt: skip
    def test_money_in_review_that_goes_back_ends_the_review(
        self, upgraded: Database, pages: dict[str, Row], name: str, back: tuple[str, int], state: tuple[str, str]
    ) -> None:
        session_id = pages[name]["session_id"]
        assert upgraded.state(session_id)[2] is not None
        report_refund(upgraded, pages[name], *back)
        assert upgraded.state(session_id) == (*state, None)
        assert broken(upgraded) == []

    def test_a_refund_that_was_only_reported_is_applied_when_the_provider_says_it_again(
        self, upgraded: Database, ids: dict[str, uuid.UUID], pages: dict[str, Row]
    ) -> None:
        assert upgraded.state(ids["refund_reported"]) == ("completed", "fulfilled", "refund_reported")
        report_refund(upgraded, pages["refund_reported"], "pi_refund_reported", 500, refund_id="re_reported")
        assert upgraded.state(ids["refund_reported"])[:2] == ("refunded", "reversed")
        assert upgraded.balance(buyer_of(upgraded, ids["refund_reported"])) == 0
        assert broken(upgraded) == []

    def test_what_could_not_be_delivered_can_be_retried(self, upgraded: Database, ids: dict[str, uuid.UUID]) -> None:
        assert upgraded.state(ids["undelivered"]) == ("completed", "failed", "fulfilment_failed")
        upgraded.fulfil_with("raffle", "begin return '{\"number\": 7}'; end")
        upgraded.as_service().rpc("retry_fulfilment", p_session_id=ids["undelivered"])
        assert upgraded.state(ids["undelivered"]) == ("completed", "fulfilled", None)
        assert broken(upgraded) == []

    def test_buyers_see_their_old_purchases_and_invoices_and_nobody_elses(
        self, upgraded: Database, ids: dict[str, uuid.UUID]
    ) -> None:
        buyer = upgraded.as_user(buyer_of(upgraded, ids["paid_first"]))
        assert [row["session_id"] for row in buyer.sql("select session_id from public.payment_invoices")] == [
            ids["paid_first"]
        ]
        assert buyer.rpc("payment_history")["total_count"] == 1
        assert buyer.rpc("payment_stats")["credits_bought"] == 100


class TestReplays:
    def test_an_event_that_was_handled_before_the_upgrade_changes_nothing(
        self, upgraded: Database, pages: dict[str, Row]
    ) -> None:
        before = upgraded.everything()
        for name in ("paid_first", "processing", "declined", "underpaid"):
            assert upgraded.apply(pages[name], event=f"evt_{name}") == {"duplicate": True}
        assert upgraded.everything() == before

    @pytest.mark.parametrize("name", ["paid_first", "paid_by_page", "pro", "gift", "overpaid", "undelivered"])
    def test_a_payment_that_was_honoured_before_the_upgrade_is_not_honoured_again(
        self, upgraded: Database, pages: dict[str, Row], name: str
    ) -> None:
        payment = upgraded.session(pages[name]["session_id"])["provider_payment_id"]
        before = upgraded.everything()
        answer = upgraded.apply(pages[name], provider_payment_id=payment, source="reconcile")
        assert (answer["status"], answer["already_completed"]) == ("completed", True)
        assert upgraded.everything() == before

    @pytest.mark.parametrize("event", ["evt_failed", "evt_dead"])
    def test_an_event_that_could_not_be_handled_can_be_sent_again(
        self, upgraded: Database, pages: dict[str, Row], event: str
    ) -> None:
        assert upgraded.apply(pages["waiting"], event=event)["status"] == "completed"
        assert upgraded.value("select status from payments.webhook_events where event_id = %s", event) == "handled"
        assert broken(upgraded) == []


class TestIdempotencyKeys:
    def test_the_key_of_an_old_session_answers_that_session(
        self, upgraded: Database, ids: dict[str, uuid.UUID]
    ) -> None:
        ask = partial(
            upgraded.as_user(buyer_of(upgraded, ids["waiting"])).rpc, "get_or_create_checkout_session",
            p_plan="credits_100", p_idempotency_key="key-waiting", p_price=5, p_metadata={"n": 1},
            p_email="waiting@example.test",
        )  # fmt: skip
        assert ask(p_currency="USD") == ids["waiting"]
        with refused("PT409", "idempotency_conflict"):
            ask(p_currency="NGN")
        asked = upgraded.new_session(
            buyer_of(upgraded, ids["bare"]), p_idempotency_key="key-bare", p_subject="a friend",
            p_email="friend@example.test",
        )  # fmt: skip
        assert asked == ids["bare"]

    def test_without_a_key_an_old_open_session_comes_back(self, upgraded: Database, ids: dict[str, uuid.UUID]) -> None:
        for name in ("waiting", "processing"):
            assert upgraded.new_session(buyer_of(upgraded, ids[name])) == ids[name]

    def test_old_requests_answer_as_before(self, upgraded: Database) -> None:
        begin = partial(upgraded.as_service().rpc, "begin_idempotent_request", p_request_hash="h")
        assert begin(p_key="done") == {"status": "completed", "response": {"n": 7}}
        assert begin(p_key="failed")["status"] == "new"
        with refused("PT409", "request_in_progress"):
            begin(p_key="held")
        upgraded.as_service().rpc(
            "finish_idempotent_request", p_key="held", p_status="completed", p_response=Jsonb([1]), p_claim=1
        )
        assert begin(p_key="held") == {"status": "completed", "response": [1]}

    def test_an_old_spending_is_not_spent_again(self, upgraded: Database, ids: dict[str, uuid.UUID]) -> None:
        answer = upgraded.as_service().rpc(
            "spend_credits",
            p_user_id=buyer_of(upgraded, ids["spent"]), p_amount=60, p_reason="a poem", p_idempotency_key="spend-1",
        )  # fmt: skip
        assert answer == {"spent": 60, "balance": 40, "already_spent": True}


class TestHostApplication:
    def test_its_handler_goes_on_delivering(
        self, upgraded: Database, ids: dict[str, uuid.UUID], pages: dict[str, Row]
    ) -> None:
        answer = upgraded.apply(pages["gift_waiting"], event="evt_new")
        assert answer["fulfilment"] == {"kind": "gift_card", "value": 2500}
        new = buy(upgraded, "card")
        cards = {row["session_id"] for row in upgraded.sql("select session_id from host.gift_cards")}
        assert cards == {ids["gift"], ids["gift_waiting"], new}
        assert broken(upgraded) == []

    @pytest.mark.parametrize("amount", [2500, 1000])
    def test_a_refund_without_a_reverse_function_goes_to_review_until_there_is_one(
        self, upgraded: Database, ids: dict[str, uuid.UUID], amount: int
    ) -> None:
        gift = ids["gift"]
        status = "refunded" if amount == 2500 else "partially_refunded"
        given = upgraded.session(gift)["fulfilment"]
        assert refund(upgraded, gift, amount)["refunded_amount"] == amount
        assert upgraded.state(gift) == (status, "fulfilled", "reversal_failed")
        assert upgraded.session(gift)["fulfilment"] == given
        assert upgraded.value("select value from host.gift_cards where session_id = %s", gift) == 2500
        assert upgraded.sql("select kind, occurrence from payments.notifications where kind = 'review_alert'") == [
            {"kind": "review_alert", "occurrence": "reversal_failed"}
        ]
        assert broken(upgraded) == []
        upgraded.sql(REVERSE_GIFT_CARD)
        upgraded.as_service().rpc("retry_fulfilment", p_session_id=gift)
        assert upgraded.state(gift) == (status, "reversed" if amount == 2500 else "fulfilled", None)
        assert upgraded.value("select value from host.gift_cards where session_id = %s", gift) == 2500 - amount
        assert broken(upgraded) == []

    @pytest.mark.parametrize("kind", ["group_join", "contribution", "credits"])
    def test_a_kind_that_it_fulfils_itself_is_not_checked_or_reversed_by_ours(self, shop: Database, kind: str) -> None:
        shop.sql(
            "insert into payments.fulfilment_handlers (kind, fulfil_function) values (%s, 'payments.fulfil_gift_card')"
            " on conflict (kind) do update set fulfil_function = excluded.fulfil_function",
            kind,
        )
        upgrade(shop)
        (handler,) = shop.sql("select * from payments.fulfilment_handlers where kind = %s", kind)
        assert handler == {
            "kind": kind, "fulfil_function": "payments.fulfil_gift_card", "reverse_function": None,
            "check_function": None,
        }  # fmt: skip


class TestInTraffic:
    @pytest.mark.parametrize("step", STEPS)
    def test_everything_goes_on_between_two_migrations(
        self, shop: Database, ids: dict[str, uuid.UUID], pages: dict[str, Row], step: str
    ) -> None:
        migrate_up_to(shop, step)
        bought = [buy(shop), buy(shop, "pro_month"), buy(shop, "card"), ids["waiting"]]
        shop.apply(pages["waiting"], event="evt_between")
        shop.close(ids["bare"])
        shop.lapse(ids["gift_waiting"])
        assert shop.as_service().rpc("expire_old_checkout_sessions") == 1
        report(shop, pages["paid_first"], "pi_paid_first", "evt_dispute", disputed=True)
        upgrade(shop)
        assert broken(shop) == []
        for session_id in bought:
            assert shop.state(session_id) == ("completed", "fulfilled", None)
            assert [kind for kind, _ in documents(shop, session_id)] == ["invoice"]
        assert [shop.state(ids[name])[0] for name in ("bare", "gift_waiting")] == ["cancelled", "expired"]
        assert shop.state(ids["paid_first"])[2] == "dispute_reported"

    @pytest.mark.parametrize("step", STEPS)
    def test_a_page_that_is_opened_between_two_migrations_is_in_the_queue_too(self, shop: Database, step: str) -> None:
        migrate_up_to(shop, step)
        page = shop.open_attempt(shop.new_session(), "cs_between")
        upgrade(shop)
        assert shop.value("select reconcile_at is not null from payments.attempts where number = %s", page["number"])

    @pytest.mark.parametrize("step", STEPS)
    def test_a_purchase_under_way_during_a_migration_gets_its_one_invoice(
        self, shop: Database, pages: dict[str, Row], step: str
    ) -> None:
        migrate_up_to(shop, ([LAST_RELEASE, *STEPS])[STEPS.index(step)])
        with shop.as_service().request() as buyer:
            call(buyer, "apply_payment_outcome", p_outcome=outcome(pages["waiting"]))
            upgrading = start_until_it_waits_or_ends(shop, partial(upgrade, shop))
        upgrading.result(WAIT)
        shop.as_service().rpc("number_payment_invoices")
        assert documents(shop, pages["waiting"]["session_id"]) == [("invoice", 500)]
        assert broken(shop) == []

    @pytest.mark.parametrize(
        "statement",
        [
            pytest.param("update public.payment_checkout_sessions set updated_at = now()", id="writes sessions"),
            pytest.param("select public.quote_checkout('credits_100')", id="reads products"),
        ],
    )
    def test_a_table_that_is_in_use_for_too_long_leaves_no_half_of_a_migration(
        self, server: LocalPostgres, shop: Database, statement: str
    ) -> None:
        before = describe(server, shop.name)
        with shop.as_owner().request() as other:
            other.execute(statement.encode())
            with pytest.raises(SetupError, match="lock timeout") as caught:
                upgrade(shop)
        assert "quieter moment" in caught.value.hint
        with psycopg.connect(shop.url()) as connection:
            assert pending_migrations(connection) == NEW_MIGRATIONS
        assert describe(server, shop.name) == before
        upgrade(shop)
        assert broken(shop) == []

    def test_connections_that_were_open_before_go_on(self, shop: Database) -> None:
        """Their plans and row types are those of the last release."""
        users = [shop.new_user() for _ in range(8)]
        claims = '{"role": "service_role"}'
        with psycopg.connect(shop.url("authenticator"), autocommit=True, row_factory=dict_row) as connection:
            connection.execute("select set_config('role', 'service_role', false)")
            connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            for number, user in enumerate(users):  # psycopg prepares what it has seen five times
                if number == 6:
                    upgrade(shop)
                session_id = call(connection, "get_or_create_checkout_session", p_plan="credits_100", p_user_id=user)
                attempt = call(connection, "open_checkout_attempt", p_session_id=session_id)
                call(connection, "apply_payment_outcome", p_outcome=outcome(attempt))
                again = {"p_session_id": session_id, "p_provider_payment_id": f"pi_{attempt['number']}"}
                assert call(connection, "complete_checkout_session", **again)["already_completed"]
                call(connection, "find_checkout_attempt", p_session_id=session_id)
                (latest,) = call(connection, "get_latest_checkout_session", p_user_id=user)
                assert latest["id"] == session_id
        assert [shop.balance(user) for user in users] == [100] * len(users)
        assert broken(shop) == []

    def test_a_purchase_and_a_migration_that_wait_for_each_other_lose_nothing(
        self, shop: Database, ids: dict[str, uuid.UUID], pages: dict[str, Row]
    ) -> None:
        pay = partial(shop.apply, pages["waiting"], event="evt_new")
        with shop.as_owner().request() as other:  # holds the purchase up while the migration takes its first locks
            other.execute("select from public.payment_checkout_sessions where id = %s for update", [ids["waiting"]])
            buying = start_until_it_waits_or_ends(shop, pay)
            upgrading = start_until_it_waits_or_ends(shop, partial(upgrade, shop), waiting=2)
        trouble = buying.exception(WAIT), upgrading.exception(WAIT)
        assert trouble[0] is None or (isinstance(trouble[0], psycopg.Error) and trouble[0].sqlstate in TRY_AGAIN)
        assert trouble[1] is None or (isinstance(trouble[1], SetupError) and "quieter moment" in trouble[1].hint)
        pay()
        upgrade(shop)
        assert shop.state(ids["waiting"]) == ("completed", "fulfilled", None)
        assert shop.entries(buyer_of(shop, ids["waiting"])) == [100]
        assert documents(shop, ids["waiting"]) == [("invoice", 500)]
        assert broken(shop) == []

    def test_buyers_who_buy_all_the_time_lose_nothing(self, shop: Database) -> None:
        with crowd(shop, 3) as buyers:
            buyers.buy(10)
            upgrade_with_patience(shop)
            buyers.buy(10)
        assert set(buyers.trouble) <= TRY_AGAIN
        shop.as_service().rpc("number_payment_invoices")
        for session_id in buyers.bought:
            assert shop.state(session_id) == ("completed", "fulfilled", None)
            assert documents(shop, session_id) == [("invoice", 500)]
        assert broken(shop) == []
