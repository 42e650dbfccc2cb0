"""A fifth shard is added, and users are moved there while they and others buy."""

from __future__ import annotations

import threading
import uuid

import psycopg
import pytest
from typer.testing import CliRunner

from bridge.cli.app import app_of
from bridge.errors import SetupError
from bridge.sharding import move, set_up
from bridge.sharding.moving import COPIED, MOVED, STAYING
from tests.sharding.conftest import Installation
from tests.support.bridge import wait_until
from tests.support.database import Database, refused

pytestmark = pytest.mark.needs("plproxy")

FIFTH = 4


@pytest.fixture(scope="module")
def grown(installation: Installation) -> Installation:
    """The installation with a fifth shard, on which nobody is yet."""
    installation.add_shard()
    set_up(installation.router_url, installation.shard_urls)
    return installation


def logical_of(installation: Installation, user: uuid.UUID) -> int:
    return int(installation.ask_router("select shard_router.logical_of_user(%s) as logical", user)["logical"])


def place_of(installation: Installation, logical: int) -> dict[str, int | None]:
    return installation.ask_router(
        "select shard, moving_to from shard_router.logical_shards where logical = %s", logical
    )


def rows_of(shard: Database, logical: int) -> dict[str, list[str]]:
    """All that belongs to the users of a logical shard, by table."""
    return {
        table: [row["row"] for row in shard.sql(
            f"select t::text as row from {table} as t where {whose} = %s order by 1", logical
        )]
        for table, whose in MOVED.items()
    }  # fmt: skip


def with_a_past(installation: Installation, shard: int) -> tuple[uuid.UUID, uuid.UUID]:
    """A user who has bought, spent, got money back, used a coupon and a key; and a session of theirs that is open."""
    router, service, user = installation.router, installation.router.as_service(), installation.new_user(shard)
    for number in range(2):
        session = installation.new_session(user, p_coupon="MOVING", p_email="buyer@example.test")
        router.apply(router.open_attempt(session), event=f"evt_{session}", provider_payment_id=f"pi_{session}")
        if number:
            service.rpc(
                "refund_checkout_session", p_session_id=session, p_provider_refund_id=f"re_{session}", p_amount=9
            )
    router.complete(installation.new_session(user, "pro_month"), p_provider_payment_id=f"pi_{user}")
    service.rpc("spend_credits", p_user_id=user, p_amount=5, p_reason="x", p_idempotency_key=str(user))
    service.rpc("begin_idempotent_request", p_key=f"checkout:{user}:1", p_request_hash="h", p_user_id=user)
    event = {"id": f"evt_failed_{user}", "type": "t", "payload": {"reference": session.hex}}
    service.rpc("record_webhook_failure", p_provider="stripe", p_event=event, p_error="x", p_retryable=True)
    session = installation.new_session(user)
    router.as_service().rpc("find_checkout_attempt", p_session_id=session, p_user_id=user)
    return user, session


def test_every_table_moves_or_stays(installation: Installation) -> None:
    tables = installation.shards[0].sql(
        "select n.nspname || '.' || c.relname as name from pg_class as c"
        " inner join pg_namespace as n on c.relnamespace = n.oid"
        " where c.relkind = 'r' and n.nspname in ('public', 'payments')"
    )
    # a new table needs a row in bridge/sharding/moving.py
    assert {row["name"] for row in tables} == MOVED.keys() | STAYING


def test_a_new_shard_gets_nobody_by_itself(grown: Installation) -> None:
    user, _ = with_no_past(grown, 1)
    assert grown.shard_of(user) == 1
    assert grown.router.as_service().rpc("payment_health")["shards"]["asked"] == 5


def with_no_past(installation: Installation, shard: int) -> tuple[uuid.UUID, uuid.UUID]:
    user = installation.new_user(shard)
    return user, installation.new_session(user)


def test_nothing_is_lost_and_nothing_is_left(grown: Installation) -> None:
    for shard in grown.shards:
        shard.sql(
            "insert into payments.coupons (id, percent_off, max_redemptions) values ('MOVING', 10, 50)"
            " on conflict do nothing"
        )
    # the old shard has counted further than the new one
    draw = "select count(nextval(pg_get_serial_sequence('payment_credit_entries', 'id'))) from generate_series(1, 3000)"
    grown.shards[2].sql(draw)
    user, session = with_a_past(grown, 2)
    attempt = grown.router.open_attempt(session)
    logical, source, target = logical_of(grown, user), grown.shards[2], grown.shards[FIFTH]
    before = rows_of(source, logical)
    filled = {table for table, rows in before.items() if rows}
    assert len(filled) >= 14, filled
    spent, entries = grown.router.as_user(user).rpc("payment_stats"), source.entries(user)

    command = ["shard-move", str(logical), "--router", grown.router_url, "--to", str(FIFTH)]
    for url in grown.shard_urls:
        command += ["--shards", url]
    done = CliRunner().invoke(app_of(), command)
    assert (done.exit_code, done.output) == (
        0, f"logical shard {logical}: {sum(map(len, before.values()))} rows moved\n"
    )  # fmt: skip

    assert rows_of(target, logical) == before
    left = rows_of(source, logical)
    assert left.pop(COPIED) == before[COPIED]
    assert not any(left.values())
    assert grown.shard_of(user) == FIFTH
    assert grown.router.as_user(user).rpc("payment_stats") == spent
    assert target.value("select places_taken from payments.coupons where id = 'MOVING'") == 2
    assert grown.router.as_service().rpc("check_payment_invariants") == []
    assert CliRunner().invoke(app_of(), command).output == f"logical shard {logical}: is there already\n"

    # what was under way goes on: the page that was open is paid, and its number is still known
    page = {"p_provider_session_id": attempt["provider_session_id"], "p_checkout_url": "https://pay.test/again"}
    grown.router.as_service().rpc("attach_checkout_attempt", p_attempt=attempt["number"], **page)
    assert grown.router.apply(attempt, event="evt_moved")["fulfilment_status"] == "fulfilled"
    assert target.entries(user) == [*entries, 100]
    grown.new_session(user)
    assert grown.router.as_service().rpc("check_payment_invariants") == []


def test_the_moved_wait_and_the_others_do_not(grown: Installation) -> None:
    user, session = with_no_past(grown, 3)
    others, open_one = with_no_past(grown, 3)
    logical = logical_of(grown, user)
    with grown.shards[3].as_owner().request() as cron:  # something on the shard itself has the session
        cron.execute("select from public.payment_checkout_sessions where id = %s for update", (session,))
        mover = threading.Thread(
            target=move, args=(grown.router_url, grown.shard_urls, FIFTH, [logical], lambda _: None)
        )
        mover.start()
        wait_until(lambda: place_of(grown, logical)["moving_to"] == FIFTH)
        answers: list[object] = []
        buyer = threading.Thread(
            target=lambda: answers.append(grown.router.as_service().rpc("open_checkout_attempt", p_session_id=session))
        )
        buyer.start()
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        wait_until(lambda: grown.ask_router(waiting)["count"] == 1)
        assert grown.new_session(others) == open_one
        assert answers == []
    mover.join()
    buyer.join()
    assert grown.shard_of(user) == FIFTH
    (answer,) = answers
    assert isinstance(answer, dict)
    assert answer["number"] % 32 == FIFTH


@pytest.mark.parametrize(("decided", "where"), [(False, 1), (True, FIFTH)])
def test_a_move_that_was_cut_off_is_ended_by_the_next(
    grown: Installation, monkeypatch: pytest.MonkeyPatch, decided: bool, where: int
) -> None:
    user, session = with_no_past(grown, 1)
    logical = logical_of(grown, user)
    before = rows_of(grown.shards[1], logical)
    with monkeypatch.context() as patched:
        patched.setattr("bridge.sharding.moving._end_last_move", dies_at_the_end(grown))
        if not decided:
            patched.setattr("bridge.sharding.moving._prepare", prepares_and_dies())
        with pytest.raises(KeyboardInterrupt):
            move(grown.router_url, grown.shard_urls, FIFTH, [logical], lambda _: None)
    assert place_of(grown, logical) == {"shard": where, "moving_to": FIFTH}
    with refused("PT503", "try_again"):
        grown.router.as_service().rpc("open_checkout_attempt", p_session_id=session)
    move(grown.router_url, grown.shard_urls, where, [logical], lambda _: None)
    assert place_of(grown, logical) == {"shard": where, "moving_to": None}
    assert rows_of(grown.shards[where], logical) == before
    assert not any(rows_of(grown.shards[1 if decided else FIFTH], logical).values())
    assert grown.router.as_service().rpc("open_checkout_attempt", p_session_id=session)["session_id"] == str(session)


def dies_at_the_end(installation: Installation) -> object:
    """The first end of a move is done, the later ones are not: the process is gone."""
    from bridge.sharding.moving import _end_last_move  # noqa: PLC0415

    calls: list[int] = []

    def end(router: psycopg.Connection, shards: list[psycopg.Connection], logical: int) -> int:
        calls.append(logical)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return _end_last_move(router, shards, logical)

    return end


def prepares_and_dies() -> object:
    from bridge.sharding.moving import _prepare  # noqa: PLC0415

    def prepare(shards: list[psycopg.Connection], source: int, target: int, logical: int) -> int:
        _prepare(shards, source, target, logical)
        raise KeyboardInterrupt

    return prepare


def test_a_group_is_not_torn_apart(grown: Installation) -> None:
    founder, member = grown.new_user(1), grown.new_user(1)
    home = grown.shards[1]
    group = grown.new_session(founder)
    home.sql(
        "insert into public.payment_groups (id, name, created_by, capacity, contribution_product_id, cycle, created_at)"
        " values (%s, 'g', %s, 3, 'credits_100', '1 month', now())",
        group, founder,
    )  # fmt: skip
    home.sql(
        "insert into public.payment_group_members"
        " (group_id, user_id, position, status, session_id, security_deposit, currency, joined_at, updated_at)"
        " values (%s, %s, 1, 'active', %s, 0, 'USD', now(), now())",
        group, member, group,
    )  # fmt: skip
    logical = logical_of(grown, founder)
    try:
        with pytest.raises(SetupError, match="members in several logical shards"):
            move(grown.router_url, grown.shard_urls, FIFTH, [logical], lambda _: None)
        assert place_of(grown, logical) == {"shard": 1, "moving_to": None}
        assert home.session(group)["status"] == "pending"
    finally:
        home.sql("delete from public.payment_group_members where group_id = %s", group)


def test_a_coupon_at_its_cap_there_stops_the_move(grown: Installation) -> None:
    for shard in grown.shards:
        shard.sql("insert into payments.coupons (id, percent_off, max_redemptions) values ('FULL', 10, 1)")
    first, second = grown.new_user(3), grown.new_user(2)
    for user in (first, second):  # caps are per shard
        grown.new_session(user, p_coupon="FULL")
    move(grown.router_url, grown.shard_urls, FIFTH, [logical_of(grown, first)], lambda _: None)
    logical = logical_of(grown, second)
    with pytest.raises(SetupError, match="coupons_are_never_redeemed_above_their_cap"):
        move(grown.router_url, grown.shard_urls, FIFTH, [logical], lambda _: None)
    assert place_of(grown, logical) == {"shard": 2, "moving_to": None}
    assert len(rows_of(grown.shards[2], logical)["payments.coupon_redemptions"]) == 1
    grown.shards[FIFTH].sql("update payments.coupons set max_redemptions = 2 where id = 'FULL'")
    move(grown.router_url, grown.shard_urls, FIFTH, [logical], lambda _: None)
    assert grown.router.as_service().rpc("check_payment_invariants") == []


def test_users_may_come_back_with_their_documents(grown: Installation) -> None:
    user, session = with_no_past(grown, 2)
    grown.router.complete(session, p_provider_payment_id=f"pi_{session}")
    logical = logical_of(grown, user)
    for shard, plan in ((FIFTH, "credits_100"), (2, "pro_month"), (FIFTH, "credits_100")):
        move(grown.router_url, grown.shard_urls, shard, [logical], lambda _: None)
        again = grown.new_session(user, plan)
        grown.router.complete(again, p_provider_payment_id=f"pi_{again}")
    # a user of another test may be on the same logical shard
    documents = [row for row in rows_of(grown.shards[FIFTH], logical)[COPIED] if str(user) in row]
    assert len(documents) == 4
    assert {document.split(",")[0] for document in documents} == {"(INV-2", "(INV-4"}
    assert grown.router.as_service().rpc("check_payment_invariants") == []
