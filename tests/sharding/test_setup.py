"""How a router is made: of empty databases, and of one that has been in use."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from bridge.cli.app import app_of
from bridge.errors import SetupError
from bridge.local.postgres import SUPERUSER
from bridge.sharding import move, router_script, set_up
from tests.sharding.conftest import Installation
from tests.support.database import Database, refused

pytestmark = pytest.mark.needs("plproxy")


def new_database(installation: Installation, name: str, template: str = "blank") -> Database:
    with psycopg.connect(installation.server.url(user=SUPERUSER), autocommit=True) as connection:
        for query in ("create database {0} template {1}", "grant all on database {0} to postgres"):
            connection.execute(sql.SQL(query).format(sql.Identifier(name), sql.Identifier(template)))
    return Database("127.0.0.1", installation.server.port, name)


def logical_of(installation: Installation, user: uuid.UUID) -> int:
    return int(installation.ask_router("select shard_router.logical_of_user(%s) as logical", user)["logical"])


def test_a_database_that_has_been_in_use_becomes_the_first_shard(installation: Installation) -> None:
    used, empty = new_database(installation, "used"), new_database(installation, "empty")
    router = new_database(installation, "its_router", "template1")
    made = Installation(installation.server, router, [used, empty])
    buyer = used.new_user()
    paid, open_one = used.new_session(buyer), used.new_session(buyer, "pro_month")
    used.apply(used.open_attempt(paid), provider_payment_id="pi_before")
    attempt = used.as_service().rpc("open_checkout_attempt", p_session_id=open_one)

    set_up(made.router_url, made.shard_urls)
    service = router.as_service()
    assert made.ask_router("select array_agg(distinct shard) as all from shard_router.logical_shards") == {"all": [0]}
    # what began before goes on, and what was paid before pays nothing else
    page = {"p_provider_session_id": "cs_before", "p_checkout_url": "https://pay.test/cs_before"}
    service.rpc("attach_checkout_attempt", p_attempt=attempt["number"], **page)
    assert router.apply(attempt)["status"] == "completed"
    other = made.new_user()
    while logical_of(made, other) == logical_of(made, buyer):
        other = made.new_user()
    move(made.router_url, made.shard_urls, 1, [logical_of(made, other)], lambda _: None)
    session = made.new_session(other)
    with refused("PT409", "payment_reused"):
        router.complete(session, p_provider_payment_id="pi_before")
    # numbers go on above those that were given
    number = router.open_attempt(made.new_session(made.new_user(0)))["number"]
    assert number > attempt["number"]
    assert number % 32 == 0

    move(made.router_url, made.shard_urls, 1, [logical_of(made, buyer)], lambda _: None)
    assert made.shard_of(buyer) == 1
    assert router.as_user(buyer).rpc("payment_history")["total_count"] == 2
    assert service.rpc("check_payment_invariants") == []
    # done again, nothing is changed, and nobody is moved
    set_up(made.router_url, made.shard_urls)
    assert made.shard_of(buyer) == 1
    assert router.open_attempt(made.new_session(made.new_user(0)))["number"] == number + 32


def test_shards_with_two_pasts_are_refused(installation: Installation) -> None:
    installation.new_session(installation.new_user(1))
    with pytest.raises(SetupError, match="other than the first has sessions"):
        set_up(installation.server.url("postgres", SUPERUSER), installation.shard_urls)


def test_a_shard_that_is_not_migrated_is_refused(installation: Installation) -> None:
    plain = new_database(installation, "plain", "template1")
    with pytest.raises(SetupError, match="lacks the migration"):
        set_up(installation.router_url, [plain.url()])
    with pytest.raises(SetupError, match="has not one function"):
        router_script([plain.url()])


def test_what_is_printed_is_what_is_applied_and_holds_no_password(installation: Installation) -> None:
    urls = [url.replace("postgres@", "postgres:a-secret@") for url in installation.shard_urls]
    command = ["shard-router", *(part for url in urls for part in ("--shards", url))]
    printed = CliRunner().invoke(app_of(), command).output
    assert "a-secret" not in printed
    router = new_database(installation, "from_print", "template1")
    with psycopg.connect(router.url(SUPERUSER), autocommit=True) as connection:
        connection.execute(printed.encode())
    user = installation.new_user()
    session = installation.new_session(user)
    latest = router.as_service().rpc("get_latest_checkout_session", p_user_id=user)
    assert [row["id"] for row in latest] in ([session], [])  # its map knows of no move

    of_shard = CliRunner().invoke(app_of(), [*command, "--of-shard", "1"]).output
    assert "invoice_series || '-1'" in of_shard
    assert "a-secret" not in of_shard
    shard = new_database(installation, "prepared_by_hand")
    shard.sql("select 1")
    with psycopg.connect(shard.url(), autocommit=True) as connection:
        connection.execute(of_shard.encode())
    assert shard.open_attempt(shard.new_session())["number"] % 32 == 1
    assert CliRunner().invoke(app_of(), [*command, "--of-shard", "77"]).exit_code == 1
