"""The periodic jobs, where pg_cron is installed: on servers of their own, because pg_cron must be preloaded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, packaged_migrations, pending_migrations, seed_file
from tests.support.database import Database, Row, apply_files, call, refused
from tests.support.schema import MIGRATIONS

if TYPE_CHECKING:
    from tests.migrations.conftest import NewDatabase

SHOP = "shop"
EXPIRE = "pgcheckout-expire"
NUMBER = "pgcheckout-number-invoices"
CLEAN_UP = "pgcheckout-clean-up"
FORGET_RUNS = "pgcheckout-forget-runs"
CHECK = "pgcheckout-check-invariants"
AUDIT = "pgcheckout-audit"
JOBS = {
    EXPIRE: ("7 * * * *", "select public.expire_old_checkout_sessions()"),
    "pgcheckout-remind": ("*/15 * * * *", "select public.enqueue_payment_reminders()"),
    NUMBER: ("* * * * *", "select public.number_payment_invoices()"),
    CLEAN_UP: ("* * * * *", "select public.purge_old_payment_data()"),
    FORGET_RUNS: (
        "17 3 * * *",
        "delete from cron.job_run_details as d using cron.job as j where j.jobid = d.jobid"
        " and j.jobname like 'pgcheckout-%' and d.end_time < now() - interval '7 days'",
    ),
    CHECK: ("37 3 * * *", "select payments.assert_invariants()"),
    AUDIT: ("47 3 * * *", "select public.audit_payments()"),
}
MINUTE = 70  # seconds until a job of every minute must have run: pg_cron starts it when a minute begins
LATE_EXTENSION = (
    "create extension pg_cron with schema pg_catalog",
    "grant usage on schema cron to postgres",
    "grant select on table cron.job to postgres",
)
# this membership alone lets postgres into every schema
READS_NO_OTHER_SCHEMA = "revoke pg_read_all_data from postgres"


@pytest.fixture
def cron_server(server: LocalPostgres) -> Iterator[LocalPostgres]:
    own = LocalPostgres(server.major, settings=("shared_preload_libraries=pg_cron", f"cron.database_name={SHOP}"))
    yield own
    own.stop()


@pytest.fixture
def shop(cron_server: LocalPostgres) -> Database:
    """A project with pg_cron, without pgcheckout."""
    return look_alike(cron_server, SHOP)


@pytest.fixture
def migrated(shop: Database) -> Database:
    """A project with pg_cron that pgcheckout and its catalogue were installed into."""
    migrate(shop.url())
    apply_files(shop.url(), [seed_file()])
    return shop


def look_alike(server: LocalPostgres, name: str) -> Database:
    server.create_look_alike(name)
    return Database("127.0.0.1", server.port, name)


def as_superuser(db: Database, *statements: str) -> None:
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def jobs(db: Database) -> list[Row]:
    return db.sql("select * from cron.job order by jobid")


def registered(db: Database) -> dict[str, tuple[str, str]]:
    return {job["jobname"]: (job["schedule"], job["command"]) for job in jobs(db)}


def run_as_pg_cron_does(db: Database, name: str) -> None:
    """The job's command, logged in as the job's user, in the job's database."""
    (job,) = [job for job in jobs(db) if job["jobname"] == name]
    assert (job["database"], job["active"]) == (db.name, True)
    with psycopg.connect(db.url(job["username"]), autocommit=True) as connection:
        connection.execute(job["command"].encode())


def first_run(db: Database, name: str) -> Row:
    """What pg_cron recorded of a job's first finished run, once it has finished."""
    for _ in range(MINUTE * 4):
        runs = db.sql(
            "select d.* from cron.job_run_details as d join cron.job as j using (jobid)"
            " where j.jobname = %s and d.status in ('succeeded', 'failed') order by d.runid",
            name,
        )
        if runs:
            return runs[0]
        time.sleep(0.25)
    raise AssertionError(f"{name} never ran: {db.sql('select * from cron.job_run_details')}")


def buy(db: Database, user: uuid.UUID | None = None) -> uuid.UUID:
    session_id = db.new_session(user)
    db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")
    return session_id


def numbers(db: Database) -> list[int]:
    return [row["number"] for row in db.sql("select number from public.payment_invoices order by number")]


def a_lapsed_session(db: Database) -> Callable[[], bool]:
    session_id = db.new_session()
    db.lapse(session_id)
    return lambda: db.trail(session_id) == [("pending", "expired", "lapsed")]


def a_buyer_who_agreed_to_be_reminded(db: Database) -> Callable[[], bool]:
    session_id = db.new_session(p_email="buyer@example.test", p_metadata={"reminders": True})
    db.sql("update public.payment_checkout_sessions set created_at = created_at - interval '7 hours'")
    return lambda: (
        db.sql("select session_id, kind from payments.notifications")
        == [{"session_id": session_id, "kind": "reminder"}]
    )


def an_invoice_without_a_number(db: Database) -> Callable[[], bool]:
    first, second = db.new_session(), db.new_session()
    with db.as_service().request() as other:  # is numbering while the second one is paid
        call(other, "complete_checkout_session", p_session_id=first, p_provider_payment_id="pi_first")
        db.complete(second, p_provider_payment_id="pi_second")
    assert numbers(db) == [1]
    return lambda: numbers(db) == [1, 2] and db.value("select count(*) from payments.unnumbered_invoices") == 0


def an_old_session_and_an_old_idempotency_key(db: Database) -> Callable[[], bool]:
    session_has_gone, key_has_gone = a_session_of_two_years_ago(db), an_old_idempotency_key(db)
    return lambda: session_has_gone() and key_has_gone()


def runs_of_last_week(db: Database) -> Callable[[], bool]:
    db.sql("select cron.schedule('vacuum', '1 1 1 1 *', 'vacuum')")
    as_superuser(
        db,
        "insert into cron.job_run_details (jobid, runid, username, status, end_time)"
        " select j.jobid, -row_number() over (), j.username, 'succeeded', now() - days * interval '1 day'"
        " from cron.job as j, (values (6), (8)) as ago (days) where j.jobname in ('vacuum', 'pgcheckout-expire')",
    )
    look = (
        "select j.jobname, extract(day from now() - d.end_time)::int as days from cron.job_run_details as d"
        " join cron.job as j using (jobid) where d.runid < 0 order by 1, 2"
    )
    left = [("pgcheckout-expire", 6), ("vacuum", 6), ("vacuum", 8)]
    return lambda: [(row["jobname"], row["days"]) for row in db.sql(look)] == left


def an_old_idempotency_key(db: Database) -> Callable[[], bool]:
    for key in ("old", "new"):
        db.as_service().rpc("begin_idempotent_request", p_key=key, p_request_hash="h")
    db.sql(
        "update payments.idempotency_keys"
        " set updated_at = now() - interval '25 hours', leased_until = now() - interval '24 hours' where key = 'old'"
    )
    return lambda: db.sql("select key from payments.idempotency_keys") == [{"key": "new"}]


def a_session_of_two_years_ago(db: Database) -> Callable[[], bool]:
    recent = db.new_session()
    old = db.new_session(plan="credits_500")
    for session_id in (recent, old):
        db.close(session_id)
    db.sql(
        "update public.payment_checkout_sessions set id = payments.first_id_at(now() - interval '2 years'),"
        " updated_at = now() - interval '2 years' where id = %s",
        old,
    )
    return lambda: db.sql("select id from public.payment_checkout_sessions") == [{"id": recent}]


WORK = {
    EXPIRE: a_lapsed_session,
    "pgcheckout-remind": a_buyer_who_agreed_to_be_reminded,
    NUMBER: an_invoice_without_a_number,
    CLEAN_UP: an_old_session_and_an_old_idempotency_key,
    FORGET_RUNS: runs_of_last_week,
}


@pytest.mark.needs("pg_cron")
class TestWithTheExtension:
    def test_migrations_register_the_jobs_as_the_role_that_migrates(self, migrated: Database) -> None:
        assert registered(migrated) == JOBS
        assert {(job["username"], job["database"], job["active"]) for job in jobs(migrated)} == {
            ("postgres", SHOP, True)
        }

    def test_scheduling_again_replaces_what_was_changed_and_duplicates_nothing(self, migrated: Database) -> None:
        before = jobs(migrated)
        migrated.sql("select cron.schedule(%s, '1 1 1 1 *', 'select 1')", EXPIRE)
        assert registered(migrated)[EXPIRE] == ("1 1 1 1 *", "select 1")
        assert migrated.value("select payments.schedule_jobs()") == len(JOBS)
        assert jobs(migrated) == before

    def test_a_job_of_earlier_versions_goes(self, migrated: Database) -> None:
        migrated.sql("select cron.schedule('pgcheckout-forget-idempotency-keys', '17 3 * * *', 'select 1')")
        assert migrated.value("select payments.schedule_jobs()") == len(JOBS)
        assert registered(migrated) == JOBS

    def test_jobs_of_the_project_itself_stay(self, shop: Database) -> None:
        shop.sql("select cron.schedule('expire', '1 2 * * *', 'select 1')")
        migrate(shop.url())
        assert registered(shop) == {"expire": ("1 2 * * *", "select 1"), **JOBS}

    @pytest.mark.parametrize("role", ["service", "anon", "user"])
    def test_nobody_but_the_owner_may_schedule(self, migrated: Database, role: str) -> None:
        caller = {
            "service": migrated.as_service(), "anon": migrated.as_anon(), "user": migrated.as_user(uuid.uuid4())
        }[role]  # fmt: skip
        for function in ("schedule_jobs", "assert_invariants"):
            with refused("42501"):
                caller.sql(f"select payments.{function}()")

    @pytest.mark.parametrize("name", WORK)
    def test_the_command_of_each_job_works_as_the_user_of_the_job(self, migrated: Database, name: str) -> None:
        done = WORK[name](migrated)
        assert not done()
        run_as_pg_cron_does(migrated, name)
        assert done()
        assert migrated.as_service().rpc("check_payment_invariants") == []

    def test_no_job_was_left_out_of_these_tests(self) -> None:
        assert {*WORK, CHECK, AUDIT} == {*JOBS}

    def test_the_check_is_quiet_on_a_healthy_database_and_loud_on_a_broken_one(self, migrated: Database) -> None:
        user = migrated.new_user()
        buy(migrated, user)
        run_as_pg_cron_does(migrated, CHECK)
        migrated.sql("update public.payment_credit_balances set balance = balance + 1")
        with refused("PT500", "invariant_broken") as caught:
            run_as_pg_cron_does(migrated, CHECK)
        assert f"balance_is_the_sum_of_entries {user}" in str(caught.value)

    def test_the_audit_opens_an_alert_for_what_is_broken(self, migrated: Database) -> None:
        buy(migrated)
        run_as_pg_cron_does(migrated, AUDIT)
        assert migrated.sql("select * from payments.alerts") == []
        migrated.sql("update public.payment_credit_balances set balance = balance + 1")
        run_as_pg_cron_does(migrated, AUDIT)
        assert migrated.sql("select kind, subject from payments.alerts") == [
            {"kind": "broken_invariant", "subject": "balance_is_the_sum_of_entries"}
        ]

    def test_the_check_stays_readable_when_much_is_broken(self, migrated: Database) -> None:
        for _ in range(12):
            buy(migrated)
        migrated.sql("update public.payment_credit_balances set balance = balance + 1")
        with refused("PT500", "invariant_broken") as caught:
            run_as_pg_cron_does(migrated, CHECK)
        assert str(caught.value).count("balance_is_the_sum_of_entries") == 10

    def test_jobs_fire_by_themselves_and_what_they_find_broken_is_kept(self, migrated: Database) -> None:
        expired, numbered = a_lapsed_session(migrated), an_invoice_without_a_number(migrated)
        migrated.sql("update public.payment_credit_balances set balance = balance + 1")
        for name in (EXPIRE, CHECK):
            migrated.sql("select cron.schedule(%s, '* * * * *', %s)", name, JOBS[name][1])
        runs = {name: first_run(migrated, name) for name in (EXPIRE, NUMBER, CHECK)}
        assert {name: run["status"] for name, run in runs.items()} == {
            EXPIRE: "succeeded", NUMBER: "succeeded", CHECK: "failed"
        }, runs  # fmt: skip
        assert (expired(), numbered()) == (True, True)
        assert "balance_is_the_sum_of_entries" in runs[CHECK]["return_message"]


@pytest.mark.needs("pg_cron")
class TestWithoutRights:
    @pytest.mark.parametrize("right", ["usage on schema cron", "execute on function cron.schedule(text, text, text)"])
    def test_a_role_that_may_not_schedule_gets_a_notice_and_all_else(self, shop: Database, right: str) -> None:
        as_superuser(shop, f"revoke {right} from postgres, public", READS_NO_OTHER_SCHEMA)
        notices: list[str] = []
        with psycopg.connect(shop.url(), autocommit=True) as connection:
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
            for file in sorted(MIGRATIONS.glob("*.sql")):
                with connection.transaction():
                    connection.execute(file.read_bytes())
        (notice,) = {notice for notice in notices if "pg_cron" in notice}  # the same from each migration
        assert "select payments.schedule_jobs()" in notice
        with psycopg.connect(shop.url(SUPERUSER)) as connection:
            assert connection.execute("select count(*) from cron.job").fetchone() == (0,)
        with refused("42501"):
            shop.sql("select payments.schedule_jobs()")
        as_superuser(shop, f"grant {right} to postgres")
        assert shop.value("select payments.schedule_jobs()") == len(JOBS)
        assert registered(shop) == JOBS

    def test_the_command_migrate_ends_well_too(self, shop: Database) -> None:
        as_superuser(shop, "revoke usage on schema cron from postgres", READS_NO_OTHER_SCHEMA)
        assert migrate(shop.url()) == packaged_migrations()
        with psycopg.connect(shop.url()) as connection:
            assert pending_migrations(connection) == []
        with refused("42501"):
            shop.sql("select payments.schedule_jobs()")


@pytest.mark.needs("pg_cron")
class TestWithoutTheExtension:
    def test_a_database_that_pg_cron_does_not_serve_gets_no_jobs(self, cron_server: LocalPostgres) -> None:
        other = look_alike(cron_server, "other")
        migrate(other.url())
        assert other.value("select payments.schedule_jobs()") == 0
        assert other.value("select to_regnamespace('cron')") is None

    def test_an_extension_that_comes_later_gets_the_jobs_when_asked(self, shop: Database) -> None:
        as_superuser(shop, "drop extension pg_cron")
        migrate(shop.url())
        assert shop.value("select payments.schedule_jobs()") == 0
        as_superuser(shop, *LATE_EXTENSION)
        assert registered(shop) == {}
        assert shop.value("select payments.schedule_jobs()") == len(JOBS)
        assert registered(shop) == JOBS


def test_where_pg_cron_cannot_even_be_installed_nothing_is_scheduled(new_database: NewDatabase) -> None:
    _, url = new_database()
    migrate(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("select payments.schedule_jobs(), to_regnamespace('cron')").fetchone() == (0, None)


@pytest.mark.needs("pg_cron")
def test_uninstalling_leaves_no_job_of_ours(migrated: Database, uninstall: str) -> None:
    migrated.sql("select cron.schedule('of-the-host', '0 0 * * *', 'select 1')")
    migrated.sql(uninstall)
    assert registered(migrated) == {"of-the-host": ("0 0 * * *", "select 1")}
