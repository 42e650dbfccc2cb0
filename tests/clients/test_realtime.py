"""What Realtime works with: the publication, the changes that a replication slot gives, and what RLS says of them.

Supabase's Realtime server cannot run here. It reads the publication through a slot, and asks the table's policies, as
the role and with the claims of each subscriber, who may have a change.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from tests.support.database import Database, apply_files, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = "payment_checkout_sessions"


@pytest.fixture(scope="module")
def published(server: LocalPostgres) -> Iterator[Database]:
    """A migrated database on a server that decodes its log, as every Supabase project does."""
    # a slot is given what has been flushed: a commit must not be ahead of that
    decoding = LocalPostgres(server.major, settings=("wal_level=logical", "synchronous_commit=on"))
    try:
        url = decoding.create_look_alike("published")
        migrate(url)
        apply_files(url, [seed_file()])
        yield Database("127.0.0.1", decoding.port, "published")
    finally:
        decoding.stop()


def test_the_publication_holds_the_sessions_with_all_columns_and_nothing_else(db: Database) -> None:
    (row,) = db.sql("select * from pg_publication_tables where pubname = 'supabase_realtime'")
    columns = db.value("select array_agg(attname order by attnum) from pg_attribute where attrelid = %s::regclass and"
                       " attnum > 0 and not attisdropped", f"public.{TABLE}")  # fmt: skip
    assert (row["schemaname"], row["tablename"], row["attnames"], row["rowfilter"]) == ("public", TABLE, columns, None)
    told = db.sql("select pubinsert, pubupdate, pubdelete from pg_publication where pubname = 'supabase_realtime'")
    assert told == [{"pubinsert": True, "pubupdate": True, "pubdelete": True}]


def test_a_purchase_is_told_row_by_row_and_its_end_in_one_message(published: Database) -> None:
    buyer = published.new_user()
    changes = Changes(published)
    session_id = published.new_session(buyer)
    attempt = published.open_attempt(session_id)
    before = changes.since()
    assert {name for name, _ in before} == {TABLE}
    assert before[-1][1]["checkout_url"] == f"https://pay.test/{attempt['provider_session_id']}"
    published.apply(attempt)
    ((table, row),) = [change for change in changes.since() if change[1]["status"] == "completed"]
    assert table == TABLE
    assert (row["id"], row["user_id"]) == (str(session_id), str(buyer))
    assert (row["status"], row["fulfilment_status"], row["amount"]) == ("completed", "fulfilled", "500")
    assert [entry["balance"] for entry in published.as_user(buyer).sql("select * from payment_credit_balances")] == [
        100
    ]


def test_policies_give_a_change_to_its_buyer_only(published: Database) -> None:
    owner, stranger = published.new_user(), published.new_user()
    session_id = published.new_session(owner)
    # the question that Realtime asks for each subscriber
    question = f"select count(*) as seen from public.{TABLE} where id = %s"
    assert published.as_user(owner).sql(question, session_id) == [{"seen": 1}]
    assert published.as_user(stranger).sql(question, session_id) == [{"seen": 0}]
    with refused("42501"):
        published.as_anon().sql(question, session_id)
    hidden = "select count(*) as hidden from pg_attribute where attrelid = %s::regclass and attnum > 0" \
             " and not has_column_privilege('authenticated', attrelid, attnum, 'select')"  # fmt: skip
    assert published.sql(hidden, f"public.{TABLE}") == [{"hidden": 0}]


class Changes:
    """A replication slot on the publication, read in the protocol of Postgres' own plugin, pgoutput."""

    def __init__(self, db: Database) -> None:
        self._url = db.url(SUPERUSER)
        self._slot = f"realtime_{uuid.uuid4().hex}"
        self._tables: dict[int, tuple[str, list[str]]] = {}
        self._query("select pg_create_logical_replication_slot(%s, 'pgoutput')", self._slot)

    def since(self) -> list[tuple[str, dict[str, Any]]]:
        """Table and new row of each insert and update since the last call."""
        messages = self._query(
            "select data from pg_logical_slot_get_binary_changes(%s, null, null,"
            " 'proto_version', '1', 'publication_names', 'supabase_realtime')",
            self._slot,
        )
        found = []
        for (message,) in messages:
            match message[:1]:
                case b"R":
                    self._learn(message)
                case b"I" | b"U":
                    found.append(self._row(message))
        return found

    def _learn(self, message: bytes) -> None:
        (oid,) = struct.unpack_from(">I", message, 1)
        _schema, name, rest = message[5:].split(b"\0", 2)
        (number,) = struct.unpack_from(">H", rest, 1)
        columns, at = [], 3
        for _ in range(number):
            end = rest.index(b"\0", at + 1)
            columns.append(rest[at + 1 : end].decode())
            at = end + 9  # type and its modifier
        self._tables[oid] = (name.decode(), columns)

    def _row(self, message: bytes) -> tuple[str, dict[str, Any]]:
        (oid,) = struct.unpack_from(">I", message, 1)
        name, columns = self._tables[oid]
        assert message[5:6] == b"N", "only a changed key or a full replica identity sends the old row"
        row: dict[str, Any] = {}
        at = 8
        for column in columns:
            kind, at = message[at : at + 1], at + 1
            row[column] = None
            if kind == b"t":
                (length,) = struct.unpack_from(">I", message, at)
                row[column] = message[at + 4 : at + 4 + length].decode()
                at += 4 + length
        return name, row

    def _query(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(query, parameters).fetchall()
