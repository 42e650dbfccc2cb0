"""Who may do what: every function and every table of the engine, tried by every kind of caller.

The tables below are the policy. A function or table that is missing here, or is here and does not exist, fails.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from tests.support.database import REPOSITORY, Actor, Database, Row, apply_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.local.postgres import LocalPostgres

# +: may call it, -: permission denied, a word: the reason it answers. The session and user_id are those of "user".
FUNCTIONS = """
                                             anon  user  other              service
public.abandon_checkout_attempt              -     -     -                  +
public.add_session_note                      -     -     -                  +
public.apply_payment_outcome                 -     -     -                  +
public.apply_payment_outcomes                -     -     -                  +
public.attach_checkout_attempt               -     -     -                  +
public.audit_payments                        -     -     -                  +
public.begin_idempotent_request              -     -     -                  +
public.cancel_checkout_session               -     +     not_your_session   +
public.check_payment_invariants              -     -     -                  +
public.checkout_session_story                -     -     -                  +
public.claim_alerts                          -     -     -                  +
public.claim_notifications                   -     -     -                  +
public.claim_sessions_to_reconcile           -     -     -                  +
public.cleanup_completed_checkout_sessions   -     -     -                  +
public.cleanup_idempotency_keys              -     -     -                  +
public.close_review                          -     -     -                  +
public.close_webhook_failure                 -     -     -                  +
public.complete_checkout_session             -     -     -                  +
public.enqueue_payment_reminders             -     -     -                  +
public.expire_old_checkout_sessions          -     -     -                  +
public.fail_checkout_session                 -     -     -                  +
public.find_checkout_attempt                 -     -     -                  +
public.finish_alert                          -     -     -                  +
public.finish_idempotent_request             -     -     -                  +
public.finish_notification                   -     -     -                  +
public.finish_reconcile                      -     -     -                  +
public.forget_heartbeat                      -     -     -                  +
public.get_latest_checkout_session           -     +     not_your_session   +
public.get_or_create_checkout_session        -     +     not_your_session   +
public.list_checkout_sessions                -     -     -                  +
public.list_dead_notifications               -     -     -                  +
public.list_unsettled_pages                  -     -     -                  +
public.list_webhook_failures                 -     -     -                  +
public.number_payment_invoices               -     -     -                  +
public.open_checkout_attempt                 -     -     -                  +
public.payment_health                        -     -     -                  +
public.payment_history                       -     +     +                  +
public.payment_report                        -     -     -                  +
public.payment_stats                         -     +     +                  +
public.purge_old_payment_data                -     -     -                  +
public.quote_checkout                        -     +     +                  +
public.record_heartbeat                      -     -     -                  +
public.record_webhook_failure                -     -     -                  +
public.refund_checkout_session               -     -     -                  +
public.report_trouble                        -     -     -                  +
public.retry_fulfilment                      -     -     -                  +
public.retry_notification                    -     -     -                  +
public.spend_credits                         -     -     -                  +
payments.add_reason                          -     -     -                  -
payments.add_session_event                   -     -     -                  -
payments.advance_attempt                     -     -     -                  -
payments.alert_review                        -     -     -                  -
payments.apply_coupon                        -     +     +                  +
payments.apply_outcome                       -     -     -                  -
payments.apply_page_outcome                  -     -     -                  -
payments.apply_refunds                       -     -     -                  -
payments.assert_invariants                   -     -     -                  -
payments.attempt_answer                      -     -     -                  -
payments.begin_processing                    -     -     -                  -
payments.broken_coupon_rules                 -     -     -                  -
payments.broken_credit_rules                 -     -     -                  -
payments.broken_grant_rules                  -     -     -                  -
payments.broken_refund_rules                 -     -     -                  -
payments.broken_session_rules                -     -     -                  -
payments.cancel_checkout_session             -     +     not_your_session   +
payments.capture_of_refund                   -     -     -                  -
payments.check_buyer_input                   -     -     -                  -
payments.check_contribution                  -     -     -                  -
payments.check_coupon_place                  -     +     +                  +
payments.check_event                         -     -     -                  -
payments.check_expected_price                -     -     -                  -
payments.check_group_create                  -     -     -                  -
payments.check_group_join                    -     -     -                  -
payments.check_group_metadata                -     -     -                  -
payments.check_limit                         -     -     -                  -
payments.check_not_a_member                  -     -     -                  -
payments.check_note                          -     -     -                  -
payments.check_provider                      -     -     -                  -
payments.check_sale                          -     -     -                  -
payments.claim_of_outcome                    -     -     -                  -
payments.clock_time                          -     -     -                  -
payments.complete_session                    -     -     -                  -
payments.confirm_coupon                      -     -     -                  -
payments.create_session                      -     -     -                  -
payments.currency_exponent                   -     -     -                  -
payments.current_incidents                   -     -     -                  -
payments.cycle_of_session                    -     -     -                  -
payments.draft_session                       -     -     -                  -
payments.drop_reason                         -     -     -                  -
payments.exceeds_payment                     -     -     -                  -
payments.find_attempt                        -     -     -                  -
payments.first_id_at                         -     -     -                  -
payments.flag_session                        -     -     -                  -
payments.forbid_change                       -     -     -                  -
payments.free_position                       -     -     -                  -
payments.fulfil                              -     -     -                  -
payments.fulfil_contribution                 -     -     -                  -
payments.fulfil_credits                      -     -     -                  -
payments.fulfil_group_create                 -     -     -                  -
payments.fulfil_group_join                   -     -     -                  -
payments.fulfil_none                         -     -     -                  -
payments.fulfil_subscription                 -     -     -                  -
payments.get_or_create_checkout_session      -     +     not_your_session   +
payments.give_back_coupon_places             -     -     -                  -
payments.group_of_session                    -     -     -                  -
payments.guard_session                -     -     -                  -
payments.hand_over                           -     -     -                  -
payments.insert_session                      -     -     -                  -
payments.is_service                          -     +     +                  +
payments.issue_document                      -     -     -                  -
payments.keep_alerts                         -     -     -                  -
payments.keep_audit_trail                    -     -     -                  -
payments.keep_orphaned_money                 -     -     -                  -
payments.limit_new_sessions                  -     -     -                  -
payments.limit_verifications                 -     -     -                  -
payments.lock_purchase                       -     -     -                  -
payments.lock_session                        -     -     -                  -
payments.make_offer                          -     +     +                  +
payments.mark_event_handled                  -     -     -                  -
payments.move_session                        -     -     -                  -
payments.name_capture                        -     -     -                  -
payments.new_attempt                         -     -     -                  -
payments.new_time_ordered_id                 -     -     -                  -
payments.next_reconcile                      -     -     -                  -
payments.note_fulfilment                     -     -     -                  -
payments.number_document                     -     -     -                  -
payments.other_pages                         -     -     -                  -
payments.purge_notifications                 -     -     -                  -
payments.purge_session_events                -     -     -                  -
payments.purge_webhook_events                -     -     -                  -
payments.queue_notification                  -     -     -                  -
payments.read_outcome                        -     -     -                  -
payments.read_refunds                        -     -     -                  -
payments.recognise_capture                   -     -     -                  -
payments.record_refund                       -     -     -                  -
payments.refund_answer                       -     -     -                  -
payments.refundable_amount                   -     -     -                  -
payments.refunded_of_capture                 -     -     -                  -
payments.refunded_of_session                 -     -     -                  -
payments.refuse_capture                      -     -     -                  -
payments.refuse_coupon                       -     -     -                  -
payments.refuse_for_now                      -     -     -                  -
payments.refuse_unknown_session              -     -     -                  -
payments.release_coupon                      -     -     -                  -
payments.repeated_free_session               -     -     -                  -
payments.release_deleted_coupons            -     -     -                  -
payments.report_lines                        -     -     -                  -
payments.require_service                     -     -     -                  -
payments.require_user                        -     +     not_your_session   +
payments.reserve_coupon                      -     -     -                  -
payments.resolve_returned_money              -     -     -                  -
payments.reusable_attempt                    -     -     -                  -
payments.reuse_session                       -     -     -                  -
payments.reverse_contribution                -     -     -                  -
payments.reverse_credits                     -     -     -                  -
payments.reverse_fulfilment                  -     -     -                  -
payments.reverse_group_create                -     -     -                  -
payments.reverse_group_join                  -     -     -                  -
payments.reverse_none                        -     -     -                  -
payments.reverse_subscription                -     -     -                  -
payments.review_refund                       -     -     -                  -
payments.run_handler                         -     -     -                  -
payments.schedule_jobs                       -     -     -                  -
payments.seat_member                         -     -     -                  -
payments.seconds_since                       -     -     -                  -
payments.session_answer                      -     -     -                  -
payments.session_by_id                       -     -     -                  -
payments.session_of_idempotency_key          -     -     -                  -
payments.sessions_of_purchase                -     -     -                  -
payments.set_membership                      -     -     -                  -
payments.settle_capture                      -     -     -                  -
payments.settle_refunds                      -     -     -                  -
payments.story_of_messages                   -     -     -                  -
payments.story_of_money                      -     -     -                  -
payments.story_of_purchase                   -     -     -                  -
payments.tell_refund                         -     -     -                  -
payments.trouble_of_capture                  -     -     -                  -
payments.wake_workers                        -     -     -                  -
payments.was_reviewed                        -     -     -                  -
payments.wrong_outcome_field                 -     -     -                  -
payments.wrong_refund_field                  -     -     -                  -
payments.yield_purchase                      -     -     -                  -
public.watch_payments                        -     -     -                  +
"""

# which rows SELECT shows (none of them, one's own, those of active products, all), then i(nsert) u(pdate) d(elete)
# t(runcate); -: nothing at all, a bare word: reading only
TABLES = """
                                    anon     user     other    service
public.payment_checkout_sessions    -        own      none     all
public.payment_contributions        -        own      none     all
public.payment_credit_balances      -        own      none     all
public.payment_credit_entries       -        own      none     all
public.payment_daily_conversion     -        -        -        all
public.payment_daily_revenue        -        -        -        all
public.payment_group_members        -        own      none     all
public.payment_groups               -        own      none     all
public.payment_invoices             -        own      none     all
public.payment_open_reviews         -        -        -        all
public.payment_prices               active   active   active   all+iud
public.payment_products             active   active   active   all+iud
public.payment_refunds              -        own      none     all
public.payment_subscriptions        -        own      none     all
payments.alerts                     -        -        -        -
payments.attempts                   -        -        -        -
payments.captures                   -        -        -        -
payments.coupon_currencies          -        -        -        -
payments.coupon_redemptions         -        -        -        -
payments.coupons                    -        -        -        -
payments.credit_clawbacks           -        -        -        -
payments.fulfilment_handlers        -        -        -        -
payments.heartbeats                 -        -        -        -
payments.idempotency_keys           -        -        -        -
payments.invoice_counters           -        -        -        -
payments.notifications              -        -        -        -
payments.rate_limits                -        -        -        -
payments.session_events             -        -        -        -
payments.settings                   -        -        -        -
payments.subscription_periods       -        -        -        -
payments.troubles                   -        -        -        -
payments.unnumbered_invoices        -        -        -        -
payments.webhook_events             -        -        -        -
"""

OWN_SCHEMAS = "('public'::regnamespace, 'payments'::regnamespace)"
API_ROLES = "(0, 'anon'::regrole, 'authenticated'::regrole, 'service_role'::regrole)"


def parse(table: str) -> dict[str, dict[str, str]]:
    header, *lines = (line.split() for line in table.strip().splitlines())
    return {name: dict(zip(header, cells, strict=True)) for name, *cells in lines}


@dataclass(frozen=True)
class Shop:
    """A database with things to steal: two buyers with a purchase of every kind, and a user with nothing."""

    db: Database
    user: uuid.UUID
    session_id: uuid.UUID
    callers: dict[str, Actor]


def open_shop(db: Database) -> Shop:
    user, neighbour, other = db.new_user(), db.new_user(), db.new_user()
    db.new_product("contribution", "contribution", USD=100)
    terms = {"capacity": 3, "contribution_product": "contribution", "cycle": "1 month"}
    db.new_product("circle", "group_create", terms, USD=200)
    for buyer in (user, neighbour):
        for plan in ("credits_100", "pro_month"):
            db.apply(db.open_attempt(db.new_session(buyer, plan), f"cs_{buyer}_{plan}"), event=f"evt_{buyer}_{plan}")
        circle = db.new_session(buyer, "circle")
        db.apply(db.open_attempt(circle), amount=300)  # overpaid: it is in review
        db.apply(db.open_attempt(db.new_session(buyer, "contribution", p_subject=f"{circle}:1")))
        db.as_service().rpc(
            "refund_checkout_session", p_session_id=circle, p_provider_refund_id=f"re_{buyer}", p_amount=60
        )
    session_id = db.new_session(user)
    db.new_product("retired", USD=100)
    db.sql("update public.payment_products set active = false where id = 'retired'")
    callers = {
        "anon": db.as_anon(), "user": db.as_user(user), "other": db.as_user(other), "service": db.as_service()
    }  # fmt: skip
    return Shop(db, user, session_id, callers)


@pytest.fixture
def older_project(server: LocalPostgres) -> Iterator[Database]:
    """A project made before new objects of ``public`` lost their grants to the API roles."""
    name = f"older_{uuid.uuid4().hex}"
    url = server.create_look_alike(name)
    with psycopg.connect(url) as connection:
        for objects in ("tables", "functions", "sequences"):
            connection.execute(
                f"alter default privileges for role postgres in schema public grant all on {objects}"
                " to anon, authenticated, service_role"
            )
        connection.execute("create table public.canary (id bigint generated always as identity)")
        row = connection.execute("select has_table_privilege('anon', 'public.canary', 'delete')").fetchone()
        assert row == (True,), "this is not how older projects were"
        connection.execute("drop table public.canary")
    apply_files(url, list((REPOSITORY / "supabase" / "migrations").glob("*.sql")))
    apply_files(url, [REPOSITORY / "supabase" / "seed.sql"])
    yield Database("127.0.0.1", server.port, name)
    with psycopg.connect(server.url(user="supabase_admin"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture(params=["new project", "older project"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return open_shop(request.getfixturevalue("db" if request.param == "new project" else "older_project"))


class Attempt:
    """Tries a statement and takes back what it did."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self.connection = connection

    def __call__(self, query: sql.Composed, parameters: dict[str, Any] | None = None) -> tuple[str, list[Row]]:
        """``-`` for permission denied, the reason for another caller's business, else ``+`` with the rows."""
        try:
            with self.connection.transaction(force_rollback=True):
                cursor = self.connection.execute(query, parameters or {})
                return "+", cursor.fetchall() if cursor.description else []
        except (
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.FeatureNotSupported,  # calling a trigger function
            psycopg.errors.ObjectNotInPrerequisiteState,  # writing to a view of sums
            psycopg.errors.WrongObjectType,  # truncating a view
        ):
            return "-", []
        except psycopg.Error as error:
            stranger = error.sqlstate in {"PT401", "PT403"}
            return (str(error.diag.message_detail) if stranger else "+"), []


def functions_of(db: Database) -> dict[str, Row]:
    rows = db.sql(
        "select p.pronamespace::regnamespace::text || '.' || p.proname as name, coalesce(p.proargnames, '{}') as names,"
        " array(select format_type(t, null) from unnest(p.proargtypes) as t) as types"
        f" from pg_proc as p where p.pronamespace in {OWN_SCHEMAS} order by 1"
    )
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows), "overloaded functions are ambiguous to PostgREST"
    return by_name


def call_of(function: Row, shop: Shop) -> tuple[sql.Composed, dict[str, Any]]:
    """A harmless call: about the user's session where it can say so, else about nothing."""
    known = {
        "p_user_id": shop.user, "p_session_id": shop.session_id, "p_plan": "credits_100", "p_provider": "stripe"
    }  # fmt: skip
    if function["name"].split(".")[1] not in WHO_MATTERS:
        known = {}
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}::" + kind).format(sql.Identifier(name), sql.Placeholder(name))
        for name, kind in zip(function["names"], function["types"], strict=False)
    )
    query = sql.SQL("select {}({})").format(sql.Identifier(*function["name"].split(".")), arguments)
    return query, {name: known.get(name) for name in function["names"]}


WHO_MATTERS = {
    "cancel_checkout_session", "get_latest_checkout_session", "get_or_create_checkout_session", "require_user"
}  # fmt: skip


def tables_of(db: Database) -> dict[str, Row]:
    rows = db.sql(
        "select n.nspname || '.' || c.relname as name,"
        " (select array_agg(a.attname::text order by a.attnum) from pg_attribute as a"
        "  where a.attrelid = c.oid and a.attnum > 0 and a.attidentity = '') as columns"
        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
        f" where c.relnamespace in {OWN_SCHEMAS} and c.relkind in ('r', 'p', 'v', 'm', 'f') order by 1"
    )
    return {row["name"]: row for row in rows}


def access_of(table: Row, attempt: Attempt, shop: Shop) -> str:
    name = sql.Identifier(*table["name"].split("."))
    column = sql.Identifier(table["columns"][0])
    answer, rows = attempt(sql.SQL("select * from {}").format(name))
    writes = {
        "i": sql.SQL("insert into {} default values").format(name),
        "u": sql.SQL("update {} set {} = {}").format(name, column, column),
        "d": sql.SQL("delete from {}").format(name),
        "t": sql.SQL("truncate {}").format(name),
    }
    allowed = "".join(letter for letter, statement in writes.items() if attempt(statement)[0] == "+")
    seen = answer if answer == "-" else which_rows(table["name"], rows, shop)
    return f"{seen}+{allowed}" if allowed else seen


def which_rows(table: str, rows: list[Row], shop: Shop) -> str:
    if not rows:
        return "none"
    if len(rows) == shop.db.value(f"select count(*) from {table}"):
        return "all"
    if all(row.get("user_id", row.get("created_by")) == shop.user for row in rows):
        return "own"
    retired = {row.get("id") if table.endswith("products") else row.get("product_id") for row in rows} & {"retired"}
    return "some" if retired or "user_id" in rows[0] else "active"


def test_every_function_answers_every_caller_as_written(shop: Shop) -> None:
    functions = functions_of(shop.db)
    found: dict[str, dict[str, str]] = {name: {} for name in functions}
    for who, actor in shop.callers.items():
        with actor.request() as connection:
            attempt = Attempt(connection)
            for name, function in functions.items():
                found[name][who] = attempt(*call_of(function, shop))[0]
    assert found == parse(FUNCTIONS)


def test_every_table_shows_and_takes_from_every_caller_what_is_written(shop: Shop) -> None:
    tables = tables_of(shop.db)
    found: dict[str, dict[str, str]] = {name: {} for name in tables}
    for who, actor in shop.callers.items():
        with actor.request() as connection:
            attempt = Attempt(connection)
            for name, table in tables.items():
                found[name][who] = access_of(table, attempt, shop)
    assert found == parse(TABLES)


def test_a_function_that_was_opened_by_mistake_is_noticed(db: Database) -> None:
    db.sql("grant execute on function payments.session_answer to authenticated")
    shop = open_shop(db)
    function = functions_of(db)["payments.session_answer"]
    with shop.callers["user"].request() as connection:
        assert Attempt(connection)(*call_of(function, shop))[0] == "+"


def test_functions_for_the_service_refuse_everybody_else_even_when_execute_is_granted(db: Database) -> None:
    db.sql("grant execute on all functions in schema public to anon, authenticated")
    shop = open_shop(db)
    functions = functions_of(db)
    for_the_service = {f"public.{file.stem}" for file in (REPOSITORY / "sql" / "70_service_api").glob("*.sql")}
    assert for_the_service <= set(functions)
    for who in ("anon", "user", "other"):
        with shop.callers[who].request() as connection:
            attempt = Attempt(connection)
            found = {name: attempt(*call_of(functions[name], shop))[0] for name in for_the_service}
        assert found == dict.fromkeys(for_the_service, "service_only"), who


def test_a_table_that_was_opened_by_mistake_is_noticed(db: Database) -> None:
    db.sql("alter table public.payment_credit_balances disable row level security")
    db.sql("grant update on public.payment_credit_balances to authenticated")
    shop = open_shop(db)
    table = tables_of(db)["public.payment_credit_balances"]
    with shop.callers["other"].request() as connection:
        assert access_of(table, Attempt(connection), shop) == "all+u"


def test_nothing_else_is_granted_on_tables_and_sequences(shop: Shop) -> None:
    extra = shop.db.sql(
        "select c.oid::regclass::text as object, acl.grantee::regrole::text, acl.privilege_type"
        " from pg_class as c, aclexplode(c.relacl) as acl"
        f" where c.relnamespace in {OWN_SCHEMAS} and acl.grantee in {API_ROLES}"
        " and (c.relkind = 'S' or acl.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))"
    )
    assert extra == []


def test_nothing_is_executable_by_public(shop: Shop) -> None:
    public = shop.db.sql(
        "select p.oid::regprocedure::text from pg_proc as p,"
        " aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl"
        f" where p.pronamespace in {OWN_SCHEMAS} and acl.grantee = 0"
    )
    assert public == []


def test_row_level_security_is_on_everywhere(db: Database) -> None:
    open_tables = db.sql(
        f"select c.oid::regclass::text from pg_class as c where c.relnamespace in {OWN_SCHEMAS}"
        " and c.relkind in ('r', 'p') and not c.relrowsecurity"
    )
    assert open_tables == []


def test_the_engine_is_owned_by_the_role_that_runs_migrations(db: Database) -> None:
    owners = db.sql(
        "select distinct owner::regrole::text from ("
        f"select proowner as owner from pg_proc where pronamespace in {OWN_SCHEMAS}"
        f" union all select relowner from pg_class where relnamespace in {OWN_SCHEMAS}) as owned"
    )
    assert owners == [{"owner": "postgres"}]
