"""The door to the database: psycopg and supabase-py (through the real PostgREST) behave the same."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx
import psycopg
import pytest
import stamina
from psycopg.types.json import Jsonb

from bridge.errors import (
    AttemptAttached,
    AttemptNotFound,
    CurrencyUnavailable,
    DatabaseUnavailable,
    EventInvalid,
    IdempotencyConflict,
    InvalidInput,
    InvalidRequest,
    NotYourSession,
    OutcomeInvalid,
    PaymentReused,
    PgcheckoutError,
    PriceMismatch,
    ProductUnknown,
    ProviderUnavailable,
    ProviderUnknown,
    Refused,
    SessionExpired,
    SessionNotFound,
    SessionNotPending,
    SetupError,
    UserUnknown,
)
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.rpc import PostgresTransport, Rpc, SupabaseTransport, connect_rpc
from bridge.settings import load_settings
from bridge.values import Applied, Attempt, Event, Outcome, Page, Refund
from tests.support import parts
from tests.support.bridge import wait_until
from tests.support.database import Database, Row
from tests.support.postgrest import SECRET, AsyncGateway, Keys, postgrest
from tests.support.races import start_and_see_it_wait

T = TypeVar("T")
KEYS = Keys()


class Line:
    """An Rpc that is called without ``await``."""

    def __init__(self, open_transport: Callable[[asyncio.Runner], Rpc]) -> None:
        self._runner = asyncio.Runner()
        self._rpc = open_transport(self._runner)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._rpc, name)
        return lambda *values, **named: self._runner.run(method(*values, **named))

    def call(self, function: str, **arguments: Any) -> Any:
        """Below the typed methods: any function with any arguments."""
        return self._runner.run(self._rpc._transport.call(function, arguments))

    def together(self, *calls: tuple[str, Row]) -> list[Any]:
        """Several calls at the same time; their answers or errors."""

        async def work() -> list[Any]:
            transport = self._rpc._transport
            return await asyncio.gather(*(transport.call(*call) for call in calls), return_exceptions=True)

        return self._runner.run(work())

    def prepared(self) -> list[Any]:
        """Statements that the direct transport's connection has prepared, this question apart."""

        async def look() -> list[Any]:
            transport = self._rpc._transport
            assert isinstance(transport, PostgresTransport)
            async with transport._pool.connection() as connection:
                asked = "select statement from pg_prepared_statements where statement like '%public.get%'"
                return await (await connection.execute(asked)).fetchall()

        return self._runner.run(look())

    def hang_up(self) -> None:
        self._runner.run(self._rpc.close())
        self._runner.close()


def direct(url: str, **settings: Any) -> Callable[[asyncio.Runner], Rpc]:
    chosen = load_settings(_env_file=None, database_url=url, **settings)
    return lambda runner: Rpc(runner.run(PostgresTransport.connect(chosen)))


def over_http(url: str, *, timeout: float = 10.0) -> Callable[[asyncio.Runner], Rpc]:
    chosen = load_settings(_env_file=None, supabase_url=url, supabase_service_key=SECRET)

    async def connect() -> Rpc:
        client = httpx.AsyncClient(transport=AsyncGateway(KEYS), timeout=timeout)
        return Rpc(await SupabaseTransport.connect(chosen, http=client))

    return lambda runner: runner.run(connect())


@pytest.fixture
def lines() -> Iterator[Callable[[Callable[[asyncio.Runner], Rpc]], Line]]:
    """Opens lines and hangs up at the end."""
    with ExitStack() as stack:

        def open_line(transport: Callable[[asyncio.Runner], Rpc]) -> Line:
            line = Line(transport)
            stack.callback(line.hang_up)
            return line

        yield open_line


Opener = Callable[[Callable[[asyncio.Runner], Rpc]], Line]


@pytest.fixture(params=["psycopg", pytest.param("supabase-py", marks=pytest.mark.needs("postgrest"))])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rpc(way: str, db: Database, server: LocalPostgres, lines: Opener) -> Iterator[Line]:
    if way == "psycopg":
        yield lines(direct(db.url()))
        return
    with postgrest(parts.path_of("postgrest", server), db.url("authenticator"), KEYS) as url:
        yield lines(over_http(url))


def page(attempt: Attempt) -> Page:
    expires_at = datetime.now(UTC) + timedelta(hours=20)
    return Page(provider_session_id=f"cs_{attempt.number}", url="https://pay.test/é?a=1&b='2'", expires_at=expires_at)


def paid(attempt: Attempt, **changes: Any) -> Outcome:
    said: dict[str, Any] = {
        "provider": "stripe", "status": "completed", "source": "webhook", "reference": attempt.reference,
        "provider_payment_id": "pi_1", "amount": attempt.amount, "currency": attempt.currency,
        "paid_at": datetime.now(UTC),
    }  # fmt: skip
    return Outcome(**(said | changes))


def event(name: str = "evt_1", **payload: Any) -> Event:
    return Event(id=name, type="checkout.session.completed", payload=payload)


def find_does(db: Database, body: str) -> None:
    """Make find_checkout_attempt do this instead."""
    db.sql(
        "create or replace function public.find_checkout_attempt(p_session_id uuid default null,"
        " p_reference text default null, p_provider text default null, p_provider_session_id text default null,"
        f" p_user_id uuid default null) returns jsonb language plpgsql security definer as $$ begin {body}; end $$"
    )


def fail_with(db: Database, sqlstate: str) -> None:
    """Make find_checkout_attempt raise this."""
    find_does(db, f"raise exception 'No.' using errcode = '{sqlstate}', detail = 'teapot', hint = 'Tea?'")


def by_default(db: Database, isolation: str) -> None:
    """Give the database's connections this isolation, from the next one on."""
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        admin.execute(f"alter database {db.name} set default_transaction_isolation = '{isolation}'")


def cut_all(db: Database) -> int:
    """Cut the connections of the bridge and of PostgREST; how many."""
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        return admin.execute(
            "select pg_terminate_backend(pid, 1000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and (application_name = 'pgcheckout' or application_name ilike 'postgrest%%')"
        ).rowcount


def answers_or_is_away(rpc: Line) -> bool:
    """Whether it answers; False while it says that the database cannot be reached, for which callers try again."""
    with contextlib.suppress(DatabaseUnavailable):
        rpc.check()
        return True
    return False


class TestBothWays:
    def test_a_purchase_from_beginning_to_end(self, rpc: Line, db: Database) -> None:
        user_id = db.new_user()
        arguments = {
            "p_plan": "credits_100", "p_email": None, "p_price": "5.00", "p_metadata": {"ä": ["☃", None, 1.5, True]},
            "p_idempotency_key": "order-1", "p_provider": "stripe",
        }  # fmt: skip
        session_id = rpc.get_or_create_checkout_session(user_id, arguments)
        assert isinstance(session_id, uuid.UUID)
        assert rpc.get_or_create_checkout_session(user_id, arguments) == session_id
        assert db.session(session_id)["metadata"] == arguments["p_metadata"]

        before = rpc.find_checkout_attempt(session_id=session_id, user_id=user_id)
        assert (before.number, before.reference, before.checkout_url, before.created_at) == (None, None, None, None)
        opened = rpc.open_checkout_attempt(session_id, "stripe")
        assert isinstance(opened.number, int)
        assert (opened.user_id, opened.amount, opened.currency, opened.status) == (user_id, 500, "USD", "pending")
        assert opened.session_expires_at.tzinfo
        assert opened.created_at
        assert opened.other_pages == ()

        assert rpc.attach_checkout_attempt(opened.number, page(opened)) is None
        shown = rpc.open_checkout_attempt(session_id)
        assert (shown.number, shown.checkout_url) == (opened.number, page(opened).url)
        for name in (
            {"session_id": session_id},
            {"reference": opened.reference},
            {"provider": "stripe", "provider_session_id": f"cs_{opened.number}"},
        ):
            assert asdict(rpc.find_checkout_attempt(**name)) == asdict(shown)

        applied = rpc.apply_payment_outcome(paid(opened), event(ok=True))
        assert isinstance(applied, Applied)
        assert (applied.duplicate, applied.session_id, applied.status) == (False, session_id, "completed")
        assert applied.fulfilment_status == "fulfilled"
        assert rpc.apply_payment_outcome(paid(opened), event(ok=True)) == Applied(duplicate=True)
        assert rpc.apply_payment_outcome(paid(opened)).already_completed
        assert db.balance(user_id) == 100

    def test_outcomes_that_share_a_transaction_are_answered_in_their_order(self, rpc: Line, db: Database) -> None:
        first, second = (rpc.open_checkout_attempt(db.new_session()) for _ in range(2))
        calls = [
            {"outcome": paid(first).to_json(), "event": event(text="ä☃").to_json()},
            {"outcome": paid(second, provider_payment_id="pi_1").to_json(), "event": None},  # of the first
            {"outcome": paid(second, provider_payment_id="pi_2").to_json(), "event": None},
        ]
        answers = rpc.call("apply_payment_outcomes", p_calls=calls)
        assert [answer and answer["session_id"] for answer in answers] == [
            str(first.session_id), None, str(second.session_id)
        ]  # fmt: skip

    def test_another_provider_names_the_pages_to_close(self, rpc: Line, db: Database) -> None:
        session_id = db.new_session()
        first = rpc.open_checkout_attempt(session_id)
        rpc.attach_checkout_attempt(first.number, page(first))
        (other,) = rpc.open_checkout_attempt(session_id, "sandbox").other_pages
        assert (other["provider"], other["provider_session_id"]) == ("stripe", f"cs_{first.number}")

    def test_functions_without_a_value_give_none(self, rpc: Line, db: Database) -> None:
        attempt = rpc.open_checkout_attempt(db.new_session())
        assert rpc.abandon_checkout_attempt(attempt.number, ProviderUnavailable("Stripe is away.")) is None
        assert rpc.record_webhook_failure("stripe", event(), "session_not_found", comes_again=True) is None
        assert rpc.check() is None
        (row,) = db.sql("select status, error_code, error_message from payments.attempts")
        assert tuple(row.values()) == ("failed", "provider_unavailable", "Stripe is away.")
        (row,) = db.sql("select status, error, type from payments.webhook_events")
        assert tuple(row.values()) == ("failed", "session_not_found", "checkout.session.completed")

    def test_a_set_is_a_list_of_rows(self, rpc: Line, db: Database) -> None:
        nobody = rpc.call("get_latest_checkout_session", p_user_id=uuid.UUID(int=0))
        assert nobody == []
        user_id = db.new_user()
        db.new_session(user_id)
        assert len(rpc.call("get_latest_checkout_session", p_user_id=user_id)) == 1

    def test_sessions_and_their_stories_are_read_alike(self, rpc: Line, db: Database) -> None:
        user = db.new_user()
        other, session_id = db.new_session(), db.new_session(user)
        db.apply(db.open_attempt(session_id), event="evt_1")
        mine = {"status": "completed", "in_review": False, "user_id": user, "provider": "stripe"}
        (row,) = rpc.list_checkout_sessions(None, 50, **mine, since=datetime.now(UTC) - timedelta(hours=1))
        assert (row["session_id"], row["amount"], row["currency"]) == (str(session_id), 500, "USD")
        assert [row["session_id"] for row in rpc.list_checkout_sessions(session_id, 50)] == [str(other)]
        story = rpc.checkout_session_story(session_id)
        assert [moment.kind for moment in story[:4]] == ["session", "attempt", "webhook", "capture"]
        assert story[0].at == db.session(session_id)["created_at"]
        assert story[3].detail["amount"] == 500
        with pytest.raises(SessionNotFound):
            rpc.checkout_session_story(uuid.uuid4())
        assert rpc.payment_report(1)["totals"]["revenue"] == {"USD": 500}

    def test_refunds_travel_with_the_outcome(self, rpc: Line, db: Database) -> None:
        session_id = db.new_session()
        attempt = rpc.open_checkout_attempt(session_id)
        rpc.apply_payment_outcome(paid(attempt))
        refund = Refund(provider_refund_id="re_1", amount=200, status="succeeded")
        for _ in range(2):
            applied = rpc.apply_payment_outcome(paid(attempt, status=None, refunds=(refund,)))
            assert (applied.status, applied.review_reason) == ("partially_refunded", None)
        (row,) = db.sql("select provider_refund_id, amount, status from public.payment_refunds")
        assert tuple(row.values()) == ("re_1", 200, "succeeded")
        assert db.session(session_id)["refunded_amount"] == 200

    def test_every_refusal_is_an_exception_with_advice(self, rpc: Line, db: Database) -> None:
        user_id, now = db.new_user(), datetime.now(UTC)
        session_id, done, lapsed = db.new_session(user_id), db.new_session(), db.new_session()
        db.lapse(lapsed)
        finished = rpc.open_checkout_attempt(done)
        rpc.apply_payment_outcome(paid(finished))
        attempt = rpc.open_checkout_attempt(session_id)
        rpc.attach_checkout_attempt(attempt.number, page(attempt))
        other_page = Page(provider_session_id="cs_other", url="https://pay.test", expires_at=now)

        def create(user: uuid.UUID = user_id, **arguments: Any) -> Callable[[], Any]:
            return lambda: rpc.get_or_create_checkout_session(user, {"p_plan": "credits_100", **arguments})

        create(p_plan="credits_500", p_idempotency_key="order-1")()
        cases: list[tuple[type[Refused], Callable[[], Any]]] = [
            (ProductUnknown, create(p_plan="moon")),
            (CurrencyUnavailable, create(p_currency="XXX")),
            (PriceMismatch, create(p_price="4.99")),
            (ProviderUnknown, create(p_provider="barter")),
            (InvalidInput, create(p_subject="")),
            (UserUnknown, create(uuid.uuid4())),
            (IdempotencyConflict, create(p_idempotency_key="order-1")),
            (SessionNotFound, lambda: rpc.find_checkout_attempt(session_id=uuid.uuid4())),
            (SessionNotFound, lambda: rpc.find_checkout_attempt(reference="x")),
            (SessionNotFound, rpc.find_checkout_attempt),
            (NotYourSession, lambda: rpc.find_checkout_attempt(session_id=done, user_id=user_id)),
            (SessionNotFound, lambda: rpc.open_checkout_attempt(uuid.uuid4())),
            (SessionNotPending, lambda: rpc.open_checkout_attempt(done)),
            (SessionExpired, lambda: rpc.open_checkout_attempt(lapsed)),
            (AttemptNotFound, lambda: rpc.attach_checkout_attempt(9_999_999, other_page)),
            (AttemptNotFound, lambda: rpc.attach_checkout_attempt(2**62, other_page)),
            (AttemptAttached, lambda: rpc.attach_checkout_attempt(attempt.number, other_page)),
            (PaymentReused, lambda: rpc.apply_payment_outcome(paid(attempt))),
            (OutcomeInvalid, lambda: rpc.apply_payment_outcome(paid(attempt, amount=-1))),
            (OutcomeInvalid, lambda: rpc.apply_payment_outcome(paid(attempt, amount=2**63))),
            (OutcomeInvalid, lambda: rpc.apply_payment_outcome(paid(attempt, amount=10**400))),
            (EventInvalid, lambda: rpc.apply_payment_outcome(paid(attempt), event(name=""))),
        ]
        for expected, call in cases:
            with pytest.raises(PgcheckoutError) as caught:
                call()
            assert type(caught.value) is expected
            assert caught.value.message
            assert caught.value.hint

    def test_what_postgres_cannot_keep_is_an_invalid_request(self, rpc: Line, db: Database) -> None:
        user_id = db.new_user()
        cases: list[Callable[[], Any]] = [
            lambda: rpc.find_checkout_attempt(reference="a\0b"),
            lambda: rpc.find_checkout_attempt(reference="a\ud800b"),
            lambda: rpc.call("find_checkout_attempt", p_session_id="not-a-uuid"),
            lambda: rpc.call("open_checkout_attempt", p_session_id=7),
            lambda: rpc.abandon_checkout_attempt(2**63, ProviderUnavailable("")),
            lambda: rpc.abandon_checkout_attempt(10**400, ProviderUnavailable("")),
            lambda: rpc.record_webhook_failure("stripe", event(note="a\0b"), "session_not_found", comes_again=True),
        ]
        for odd in ("\0", "\ud800", float("nan"), float("inf")):
            arguments = {"p_plan": "credits_100", "p_metadata": {"note": odd}}
            cases.append(lambda a=arguments: rpc.get_or_create_checkout_session(user_id, a))  # type: ignore[misc]
        for number, call in enumerate(cases):
            with pytest.raises(PgcheckoutError) as caught:
                call()
            assert type(caught.value) is InvalidRequest, number

    def test_a_missing_function_is_no_reason_to_try_again(self, rpc: Line, db: Database) -> None:
        db.sql("drop function public.get_latest_checkout_session")
        with pytest.raises(PgcheckoutError) as caught:
            rpc.check()
        assert (type(caught.value), caught.value.status) == (PgcheckoutError, 500)
        assert "doctor" in caught.value.hint

    def test_a_missing_grant_is_no_reason_to_try_again(self, rpc: Line, db: Database) -> None:
        db.sql("revoke execute on function public.get_latest_checkout_session from service_role")
        with pytest.raises(PgcheckoutError, match="42501") as caught:
            rpc.check()
        assert type(caught.value) is PgcheckoutError

    def test_an_unknown_reason_is_still_a_refusal(self, rpc: Line, db: Database) -> None:
        fail_with(db, "PT418")
        with pytest.raises(Refused) as caught:
            rpc.find_checkout_attempt(reference="x")
        assert type(caught.value) is Refused
        assert (caught.value.message, caught.value.hint) == ("No.", "Tea?")

    def test_a_server_in_trouble_is_worth_another_try(self, rpc: Line, db: Database) -> None:
        for sqlstate in ("55P03", "57014"):
            fail_with(db, sqlstate)
            with pytest.raises(DatabaseUnavailable, match=sqlstate):
                rpc.find_checkout_attempt(reference="x")

    def test_a_connection_that_was_cut_between_calls_is_replaced(self, rpc: Line, db: Database, way: str) -> None:
        rpc.check()
        for _ in range(2):
            assert cut_all(db)
            if way == "supabase-py":  # PostgREST refuses calls (PGRST002) until it has read the catalogue again
                wait_until(lambda: answers_or_is_away(rpc))
            rpc.check()

    def test_many_calls_at_once_are_answered(self, rpc: Line) -> None:
        look = ("get_latest_checkout_session", {"p_user_id": uuid.UUID(int=0)})
        assert rpc.together(*[look] * 40) == [[]] * 40


class TestCollisions:
    """Another transaction stands in the way, and Postgres undoes the call."""

    @pytest.fixture
    def waits(self) -> Iterator[None]:
        """Tries as many times, and waits as long between them, as in production."""
        with stamina.set_testing(False):
            yield

    @staticmethod
    def count_tries(db: Database, raising: str) -> Callable[[], int]:
        """Make find_checkout_attempt do this; how often it has been called."""
        db.sql("create sequence public.tries")
        find_does(db, f"perform nextval('public.tries'); {raising}; return null")
        return lambda: int(db.value("select case when is_called then last_value else 0 end from public.tries"))

    @pytest.mark.usefixtures("waits")
    def test_the_victim_of_a_deadlock_tries_again(self, rpc: Line, db: Database) -> None:
        user_id = db.new_user()
        attempt = rpc.open_checkout_attempt(db.new_session(user_id))
        db.sql("insert into public.payment_credit_balances values (%s, 0, now())", user_id)
        with psycopg.connect(db.url(SUPERUSER)) as other:
            other.execute("set deadlock_timeout = '1min'")  # it is not the one that gives way
            other.execute("select from public.payment_credit_balances where user_id = %s for update", [user_id])
            paying = start_and_see_it_wait(db, lambda: rpc.apply_payment_outcome(paid(attempt), event()))
            # the payment holds the session and waits for the balance
            other.execute(
                "select from public.payment_checkout_sessions where id = %s for update", [str(attempt.session_id)]
            )
        assert paying.result(30).status == "completed"
        assert (db.entries(user_id), db.state(attempt.session_id)) == ([100], ("completed", "fulfilled", None))
        look = "select deadlocks from pg_stat_database where datname = current_database()"
        wait_until(lambda: db.value(look))

    @pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
    def test_a_snapshot_that_is_too_old_is_taken_again(self, db: Database, lines: Opener, isolation: str) -> None:
        by_default(db, isolation)
        line = lines(direct(db.url(), database_role=""))  # as it comes out of a pooler
        user_id = db.new_user()
        attempt = line.open_checkout_attempt(db.new_session(user_id))
        with db.as_service().request() as first:
            first.execute("select public.apply_payment_outcome(%s)", [Jsonb(paid(attempt).to_json())])
            second = start_and_see_it_wait(db, lambda: line.apply_payment_outcome(paid(attempt, source="return")))
        assert second.result(30).already_completed
        assert db.entries(user_id) == [100]

    @pytest.fixture
    def repeatable_read(self, db: Database) -> None:
        by_default(db, "repeatable read")

    @pytest.mark.usefixtures("repeatable_read")  # before anybody connects
    def test_calls_do_not_depend_on_the_isolation_that_a_database_has_by_default(self, rpc: Line, db: Database) -> None:
        find_does(db, "return to_jsonb(current_setting('transaction_isolation'))")
        assert rpc.call("find_checkout_attempt", p_reference="x") == "read committed"

    @pytest.mark.usefixtures("waits")
    @pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
    def test_a_collision_without_end_is_given_up(self, db: Database, lines: Opener, sqlstate: str) -> None:
        tries = self.count_tries(db, f"raise exception 'No.' using errcode = '{sqlstate}'")
        with pytest.raises(DatabaseUnavailable, match=sqlstate):
            lines(direct(db.url())).find_checkout_attempt(reference="x")
        assert tries() == 5

    @pytest.mark.usefixtures("waits")
    def test_a_call_that_the_database_wants_again_is_made_again(self, rpc: Line, db: Database) -> None:
        tries = self.count_tries(
            db,
            "if (select last_value from public.tries) < 3 then"
            " raise exception 'No.' using errcode = 'PT503', detail = 'try_again', hint = 'Again.'; end if",
        )
        assert rpc.call("find_checkout_attempt", p_reference="x") is None
        assert tries() == 3

    @pytest.mark.parametrize("sqlstate", ["08006", "40003", "55P03", "57014", "57P01"])
    def test_nothing_else_is_tried_again(self, rpc: Line, db: Database, sqlstate: str) -> None:
        tries = self.count_tries(db, f"raise exception 'No.' using errcode = '{sqlstate}'")
        with pytest.raises(DatabaseUnavailable):
            rpc.find_checkout_attempt(reference="x")
        assert tries() == 1

    def test_a_call_whose_connection_was_cut_is_not_repeated(self, db: Database, lines: Opener) -> None:
        tries = self.count_tries(db, "perform pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(DatabaseUnavailable):
            lines(direct(db.url())).find_checkout_attempt(reference="x")
        assert tries() == 1


class TestDirectConnections:
    def test_a_server_in_more_trouble_is_worth_another_try(self, db: Database, lines: Opener) -> None:
        # direct only: PostgREST 12 repeats a call that failed with 40001 on its own
        line = lines(direct(db.url()))
        for sqlstate in ("40001", "40P01", "53300", "57P01", "58030"):
            fail_with(db, sqlstate)
            with pytest.raises(DatabaseUnavailable, match=sqlstate):
                line.find_checkout_attempt(reference="x")

    def test_each_connection_has_the_rights_of_the_service_only(self, db: Database, lines: Opener) -> None:
        line = lines(direct(db.url()))
        db.sql(
            "create function public.whoami() returns text language sql as 'select current_user::text';"
            "grant execute on function public.whoami to service_role"
        )
        assert line.call("whoami") == "service_role"
        assert lines(direct(db.url(), database_role="")).call("whoami") == "postgres"

    def test_statements_need_not_be_prepared(self, db: Database, lines: Opener) -> None:
        line = lines(direct(db.url(), database_pool_size=1, database_prepared=False))
        line.check()
        assert line.prepared() == []
        line = lines(direct(db.url(), database_pool_size=1))
        line.check()
        assert len(line.prepared()) == 1

    @pytest.mark.usefixtures("impatient")
    def test_a_wrong_port_is_a_database_that_is_away(self, lines: Opener) -> None:
        line = lines(direct("postgresql://postgres@127.0.0.1:1/postgres"))
        with pytest.raises(DatabaseUnavailable):
            line.check()

    @pytest.mark.usefixtures("impatient")
    def test_an_exhausted_pool_is_a_database_that_is_away(self, db: Database, lines: Opener) -> None:
        db.sql(
            "create function public.nap() returns void language sql as 'select pg_sleep(1)';"
            "grant execute on function public.nap to service_role"
        )
        line = lines(direct(db.url(), database_pool_size=1))
        line.check()

        napped, waited = line.together(("nap", {}), ("get_latest_checkout_session", {"p_user_id": uuid.UUID(int=0)}))
        assert napped is None
        assert isinstance(waited, DatabaseUnavailable)
        line.check()


class TestOverHttp:
    def test_a_gateway_that_is_away_is_a_database_that_is_away(self, lines: Opener) -> None:
        with pytest.raises(DatabaseUnavailable):
            lines(over_http("http://127.0.0.1:1")).check()

    @pytest.mark.needs("postgrest")
    def test_a_database_behind_postgrest_that_is_away(
        self, own_db: Database, own_server: LocalPostgres, lines: Opener
    ) -> None:
        with postgrest(parts.path_of("postgrest", own_server), own_db.url("authenticator"), KEYS) as url:
            line = lines(over_http(url))
            line.check()
            own_server.stop(keep=True)
            try:
                with pytest.raises(DatabaseUnavailable):
                    line.check()
            finally:
                own_server.start()


class TestTheChoice:
    def test_the_direct_way_wins(self, db: Database) -> None:
        async def chosen(**settings: Any) -> str:
            rpc = await connect_rpc(load_settings(_env_file=None, **settings))
            await rpc.close()
            return type(rpc._transport).__name__

        http = {"supabase_url": "http://127.0.0.1:1", "supabase_service_key": SECRET}
        assert asyncio.run(chosen(database_url=db.url(), **http)) == "PostgresTransport"
        assert asyncio.run(chosen(**http)) == "SupabaseTransport"

    def test_no_way_at_all_is_said_with_names(self) -> None:
        with pytest.raises(SetupError, match="No way to the database") as none:
            asyncio.run(connect_rpc(load_settings(_env_file=None)))
        for name in ("DATABASE_URL", "SUPABASE_URL", "SUPABASE_SERVICE_KEY"):
            assert f"PGCHECKOUT_{name}" in none.value.hint
