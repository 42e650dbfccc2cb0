"""One Debian Postgres 15 with a router and four shards, made as docs/scaling.md says, for all tests of this folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from bridge.sharding import set_up
from tests.support.database import Database, apply_files

SHARDS = 4


@dataclass(frozen=True)
class Installation:
    """A router and its shards. ``router`` is used as any database of ours is, by those who call functions."""

    server: LocalPostgres
    router: Database
    shards: list[Database]

    @property
    def router_url(self) -> str:
        return self.router.url(SUPERUSER)

    @property
    def shard_urls(self) -> list[str]:
        return [shard.url() for shard in self.shards]

    def ask_router(self, query: str, *parameters: Any) -> dict[str, Any]:
        """One row, as the router's superuser."""
        with psycopg.connect(self.router_url, row_factory=dict_row) as connection:
            row = connection.execute(query, parameters).fetchone()
            assert row
            return row

    def shard_of(self, user_id: uuid.UUID) -> int:
        return int(self.router.as_service().sql("select shard_router.shard_of_user(%s)", user_id)[0]["shard_of_user"])

    def home(self, user_id: uuid.UUID) -> Database:
        return self.shards[self.shard_of(user_id)]

    def new_user(self, shard: int | None = None) -> uuid.UUID:
        """A user who has signed up; of this shard, if one is named."""
        user_id = uuid.uuid4()
        while shard is not None and self.shard_of(user_id) != shard:
            user_id = uuid.uuid4()
        self.router.as_service().sql("select shard_router.add_user(%s, %s)", user_id, f"{user_id}@example.test")
        return user_id

    def new_session(self, user_id: uuid.UUID | None = None, plan: str = "credits_100", **arguments: Any) -> uuid.UUID:
        return self.router.new_session(user_id or self.new_user(), plan, **arguments)

    def add_shard(self) -> Database:
        """An empty, migrated database."""
        number = len(self.shards)
        with psycopg.connect(self.server.url(user=SUPERUSER), autocommit=True) as connection:
            for query in ("create database shard_{0} template blank", "grant all on database shard_{0} to postgres"):
                connection.execute(sql.SQL(query.format(number)))
        self.shards.append(Database("127.0.0.1", self.server.port, f"shard_{number}"))
        return self.shards[-1]

    def take_down(self, number: int) -> None:
        """The shard's machine is gone, as far as the router can see."""
        self._admit(number, "false")

    def bring_back(self, number: int) -> None:
        self._admit(number, "true")

    def _admit(self, number: int, admitted: str) -> None:
        with psycopg.connect(self.server.url(user=SUPERUSER), autocommit=True) as connection:
            connection.execute(sql.SQL(f"alter database shard_{number} allow_connections {admitted}"))
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (f"shard_{number}",)
            )


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    server = LocalPostgres(15, settings=("max_prepared_transactions=10",))
    try:
        url = server.create_look_alike("blank")
        migrate(url)
        apply_files(url, [seed_file()])
        with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as connection:
            connection.execute("create database router")
            connection.execute("grant set on parameter session_replication_role to postgres")
        made = Installation(server, Database("127.0.0.1", server.port, "router"), [])
        for _ in range(SHARDS):
            made.add_shard()
        set_up(made.router_url, made.shard_urls)
        yield made
    finally:
        server.stop()
