"""The database as its real callers see it: through the roles and settings that PostgREST gives each request."""

from __future__ import annotations

import contextlib
import functools
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

__all__ = ["REPOSITORY", "Actor", "Database", "Row", "apply_files", "outcome", "refused"]

REPOSITORY = Path(__file__).resolve().parents[2]

Row = dict[str, Any]


def apply_files(url: str, files: list[Path]) -> None:
    """Run SQL files in one transaction, in the order of their names."""
    with psycopg.connect(url) as connection:
        for file in sorted(files):
            connection.execute(file.read_bytes())


@contextlib.contextmanager
def refused(sqlstate: str, reason: str | None = None) -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """Expect the database to refuse: with this SQLSTATE, this reason in DETAIL, a sentence and advice."""
    with pytest.raises(psycopg.Error) as caught:
        yield caught
    diagnostics = caught.value.diag
    assert (caught.value.sqlstate, diagnostics.message_detail if reason else None) == (sqlstate, reason), caught.value
    if reason:
        assert diagnostics.message_primary
        assert diagnostics.message_hint


@dataclass(frozen=True)
class Actor:
    """One caller of the API: each call is a request of its own, in a transaction of its own."""

    url: str
    role: str
    claims: dict[str, Any]

    @contextlib.contextmanager
    def request(self, *, read_only: bool = False) -> Iterator[psycopg.Connection[Row]]:
        """A request in progress: commits at the end of the block, rolls back when it raises."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            connection.read_only = read_only
            connection.execute(
                "select set_config('search_path', 'public, extensions', true), set_config('role', %s, true),"
                " set_config('request.jwt.claims', %s, true)",
                (self.role, json.dumps(self.claims)),
            )
            yield connection

    def rpc(self, function: str, **arguments: Any) -> Any:
        """Call a function of ``public`` as PostgREST would: STABLE ones in a read-only transaction."""
        with self.request(read_only=is_stable(self.url, function)) as connection:
            return call(connection, function, **arguments)

    def rpc_that_only_reads(self, function: str, **arguments: Any) -> Any:
        """Call a VOLATILE function that must not write this time: its transaction never gets an id."""
        with self.request() as connection:
            answer = call(connection, function, **arguments)
            row = connection.execute("select pg_current_xact_id_if_assigned() as xact_id").fetchone()
            assert row == {"xact_id": None}
            return answer

    def sql(self, query: str, *parameters: Any) -> list[Row]:
        """Run one statement and return its rows."""
        with self.request() as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


@functools.cache
def is_stable(url: str, function: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select provolatile <> 'v' from pg_proc where pronamespace = 'public'::regnamespace and proname = %s",
            (function,),
        ).fetchone()
    return bool(row and row[0])


def call(connection: psycopg.Connection[Row], function: str, **arguments: Any) -> Any:
    """``select public.function(name => value, …)`` on an open connection; one value, or a list of rows for sets."""
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder()) for name in arguments
    )
    values = [Jsonb(value) if isinstance(value, dict | list) else value for value in arguments.values()]
    query = sql.SQL("select * from public.{}({})").format(sql.Identifier(function), named)
    rows = connection.execute(query, values).fetchall()
    if len(rows) == 1 and list(rows[0]) == [function]:
        return rows[0][function]
    return rows[0] if function.startswith("cancel_") else rows


@dataclass(frozen=True)
class Database:
    """A database of its own for one test, migrated and seeded."""

    host: str
    port: int
    name: str

    def url(self, user: str = "postgres") -> str:
        return f"postgresql://{user}@{self.host}:{self.port}/{self.name}"

    def as_user(self, user_id: uuid.UUID | str, **claims: Any) -> Actor:
        """A signed-in user."""
        claims = {"sub": str(user_id), "role": "authenticated", "aud": "authenticated", **claims}
        return Actor(self.url("authenticator"), "authenticated", claims)

    def as_anon(self) -> Actor:
        return Actor(self.url("authenticator"), "anon", {"role": "anon"})

    def as_service(self) -> Actor:
        return Actor(self.url("authenticator"), "service_role", {"role": "service_role"})

    def as_owner(self) -> Actor:
        """The DBA: the role that runs migrations, logged in directly."""
        return Actor(self.url("postgres"), "none", {})

    def sql(self, query: str, *parameters: Any) -> list[Row]:
        """Look or meddle as the DBA."""
        with psycopg.connect(self.url(), row_factory=dict_row) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: Any) -> Any:
        (row,) = self.sql(query, *parameters)
        (value,) = row.values()
        return value

    def new_user(self, email: str | None = None) -> uuid.UUID:
        user_id = uuid.uuid4()
        self.sql("insert into auth.users (id, email) values (%s, %s)", user_id, email or f"{user_id}@example.test")
        return user_id

    def new_product(self, product_id: str, kind: str = "none", terms: Row | None = None, **prices: int) -> str:
        """A product with prices in minor units; the first one is the default."""
        self.sql(
            "insert into public.payment_products (id, kind, name, terms) values (%s, %s, 'A test product', %s)",
            product_id, kind, Jsonb(terms or {}),
        )  # fmt: skip
        for currency, amount in prices.items():
            self.sql(
                "insert into public.payment_prices (product_id, currency, amount, is_default) values (%s, %s, %s, %s)",
                product_id, currency, amount, currency == next(iter(prices)),
            )  # fmt: skip
        return product_id

    def fulfil_with(self, kind: str, body: str) -> None:
        """Give a kind of product a handler with this PL/pgSQL body."""
        self.sql(
            "create or replace function payments.fulfil_for_test(p_session public.payment_checkout_sessions)"
            f" returns jsonb language plpgsql as $$ {body} $$"
        )
        self.sql(
            "update payments.fulfilment_handlers set fulfil_function = 'payments.fulfil_for_test' where kind = %s", kind
        )

    def break_fulfilment(self, kind: str, sqlstate: str = "P0001") -> None:
        """Make the handler of a kind raise this error."""
        self.fulfil_with(
            kind,
            f"begin raise exception 'The shelf is empty.' using errcode = '{sqlstate}', detail = 'shelf_empty'; end",
        )

    def mend_fulfilment(self, kind: str) -> None:
        self.sql(
            "update payments.fulfilment_handlers set fulfil_function = 'payments.fulfil_' || kind where kind = %s", kind
        )

    def new_session(self, user_id: uuid.UUID | None = None, plan: str = "credits_100", **arguments: Any) -> uuid.UUID:
        """A pending session; of a new user unless one is given."""
        session_id = self.as_service().rpc(
            "get_or_create_checkout_session", p_plan=plan, p_user_id=user_id or self.new_user(), **arguments
        )
        assert isinstance(session_id, uuid.UUID)
        return session_id

    def open_attempt(self, session_id: uuid.UUID, provider_session_id: str | None = None) -> Row:
        """An attempt with a page at the provider."""
        attempt: Row = self.as_service().rpc("open_checkout_attempt", p_session_id=session_id)
        page = provider_session_id or f"cs_{attempt['number']}"
        self.as_service().rpc(
            "attach_checkout_attempt",
            p_attempt=attempt["number"], p_provider_session_id=page, p_checkout_url=f"https://pay.test/{page}",
        )  # fmt: skip
        return attempt | {"provider_session_id": page}

    def apply(self, attempt: Row, status: str = "completed", event: str | None = None, **changes: Any) -> Row:
        """The bridge passes on what a provider says about an attempt, as this event of the provider if it is one."""
        answer: Row = self.as_service().rpc(
            "apply_payment_outcome",
            p_outcome=outcome(attempt, status, **changes),
            p_event={"id": event, "type": f"checkout.{status}", "payload": {}} if event else None,
        )
        return answer

    def complete(self, session_id: uuid.UUID | str, **arguments: Any) -> Row:
        """What the host's own code calls when it has verified a payment."""
        answer: Row = self.as_service().rpc("complete_checkout_session", p_session_id=session_id, **arguments)
        return answer

    def close(self, session_id: uuid.UUID | str) -> None:
        """The buyer gives the session up; its page can still be paid."""
        self.as_service().rpc("cancel_checkout_session", p_session_id=session_id)

    def session(self, session_id: uuid.UUID | str) -> Row:
        (row,) = self.sql("select * from public.payment_checkout_sessions where id = %s", session_id)
        return row

    def state(self, session_id: uuid.UUID | str) -> tuple[str, str, str | None]:
        """A session in short: its status, its fulfilment, and what a person must look at."""
        row = self.session(session_id)
        return row["status"], row["fulfilment_status"], row["review_reason"]

    def events(self, session_id: uuid.UUID | str) -> list[Row]:
        return self.sql("select * from payments.session_events where session_id = %s order by id", session_id)

    def trail(self, session_id: uuid.UUID | str) -> list[tuple[str, str, str | None]]:
        """The audit trail in short: from, to, reason."""
        return [(row["from_status"], row["to_status"], row["reason"]) for row in self.events(session_id)]

    def captures(self, session_id: uuid.UUID | str) -> list[Row]:
        return self.sql("select * from payments.captures where session_id = %s order by created_at", session_id)

    def balance(self, user_id: uuid.UUID) -> int:
        rows = self.sql("select balance from public.payment_credit_balances where user_id = %s", user_id)
        return int(rows[0]["balance"]) if rows else 0

    def entries(self, user_id: uuid.UUID) -> list[int]:
        rows = self.sql("select amount from public.payment_credit_entries where user_id = %s order by id", user_id)
        return [row["amount"] for row in rows]

    def everything(self) -> dict[str, list[str]]:
        """All rows of all tables of the engine, to prove that a call changed nothing."""
        with psycopg.connect(self.url()) as connection:
            tables = connection.execute(
                "select c.oid::regclass::text from pg_class as c"
                " where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'payments'::regnamespace)"
            ).fetchall()
            return {
                name: [row for (row,) in connection.execute(f"select t::text from {name} as t order by 1").fetchall()]
                for (name,) in tables
            }

    def lapse(self, session_id: uuid.UUID) -> None:
        """Make a session's time be over."""
        self.sql(
            "update public.payment_checkout_sessions set expires_at = now() - interval '1 s' where id = %s", session_id
        )


def outcome(attempt: Row, status: str = "completed", **changes: Any) -> Row:
    """What a provider says about an attempt; by default that it was paid as agreed."""
    said = {"provider": attempt["provider"], "reference": attempt["reference"], "status": status, "source": "webhook"}
    if status == "completed":
        said |= {
            "provider_payment_id": f"pi_{attempt['number']}",
            "amount": attempt["amount"],
            "currency": attempt["currency"],
        }
    return said | changes
