"""The main contract, through a router in front of four shards."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.rows import dict_row

from bridge.errors import DatabaseUnavailable, SessionNotFound
from bridge.rpc import connect_rpc
from bridge.settings import load_settings
from bridge.sharding.routes import ROUTES
from tests.sharding.conftest import Installation
from tests.support.database import outcome, refused

pytestmark = pytest.mark.needs("plproxy")

NO_ONE = uuid.UUID("01a1fb90-dc7c-76f1-b2de-d2e9ec74b96d")

SIGNATURES = """
select p.proname, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
    p.provolatile, obj_description(p.oid, 'pg_proc') as comment,
    has_function_privilege('service_role', p.oid, 'execute') as for_service,
    has_function_privilege('authenticated', p.oid, 'execute') as for_users,
    has_function_privilege('anon', p.oid, 'execute') as for_anybody
from pg_proc as p where p.pronamespace = 'public'::regnamespace and p.prolang <> 13 and p.proname = any(%s)
order by p.proname
"""


def functions_of(url: str, names: list[str] | None = None) -> list[dict[str, object]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute("set search_path = ''")
        if names is None:
            rows = connection.execute(
                "select proname from pg_proc where pronamespace = 'public'::regnamespace"
                " and proname not like 'plproxy%%' order by proname"
            ).fetchall()
            names = [row["proname"] for row in rows]
        return connection.execute(SIGNATURES, (names,)).fetchall()


def test_the_router_has_the_functions_of_a_shard(installation: Installation) -> None:
    of_shard = functions_of(installation.shard_urls[0])
    assert functions_of(installation.router_url) == of_shard
    # a new function needs a row in bridge/sharding/routes.py
    assert [row["proname"] for row in of_shard] == sorted(ROUTES)


def test_a_purchase_a_refund_and_what_the_buyer_sees(installation: Installation) -> None:
    router = installation.router
    service, user = router.as_service(), installation.new_user()
    session = installation.new_session(user)
    assert installation.new_session(user) == session
    attempt = router.open_attempt(session)
    assert service.rpc("open_checkout_attempt", p_session_id=session)["reference"] == attempt["reference"]
    assert service.rpc("find_checkout_attempt", p_reference=attempt["reference"])["session_id"] == str(session)

    answer = router.apply(attempt, event="evt_1")
    assert (answer["status"], answer["fulfilment_status"], answer["duplicate"]) == ("completed", "fulfilled", False)
    assert router.apply(attempt, event="evt_1")["duplicate"]
    assert router.apply(attempt)["already_completed"]
    latest = service.rpc("get_latest_checkout_session", p_user_id=user)
    assert [(row["id"], row["status"]) for row in latest] == [(session, "completed")]

    spent = {"p_user_id": user, "p_amount": 30, "p_reason": "a picture", "p_idempotency_key": f"{user}:1"}
    assert service.rpc("spend_credits", **spent) == {"spent": 30, "balance": 70, "already_spent": False}
    assert service.rpc("spend_credits", **spent)["already_spent"]
    refund = {"p_session_id": session, "p_provider_refund_id": f"re_{session}", "p_amount": 250}
    assert service.rpc("refund_checkout_session", **refund)["status"] == "partially_refunded"

    buyer = router.as_user(user)
    assert buyer.rpc("payment_history")["payments"][0]["refunded_amount"] == 250
    assert buyer.rpc("payment_stats")["payments_by_status"] == {"partially_refunded": 1}
    home = installation.home(user)
    assert home.entries(user) == [100, -30, -50]
    assert home.state(session) == ("partially_refunded", "fulfilled", None)
    assert service.rpc("check_payment_invariants") == []


def test_what_a_host_verified_itself_is_paid_once_on_one_shard_only(installation: Installation) -> None:
    first = installation.new_session(installation.new_user(0))
    second = installation.new_session(installation.new_user(1))
    router = installation.router
    assert router.complete(first, p_provider_payment_id="pi_mine")["status"] == "completed"
    assert router.complete(first, p_provider_payment_id="pi_mine")["already_completed"]
    with refused("PT409", "payment_reused"):
        router.complete(second, p_provider_payment_id="pi_mine")
    attempt = router.open_attempt(second)
    with refused("PT409", "payment_reused"):
        router.apply(attempt, provider_payment_id="pi_mine")
    # a refusal claims nothing
    assert router.apply(attempt, provider_payment_id="pi_other")["status"] == "completed"


def test_a_storm_of_repeats_fulfils_once_and_the_load_spreads(installation: Installation) -> None:
    users = [installation.new_user() for _ in range(20)]
    attempts = [installation.router.open_attempt(installation.new_session(user)) for user in users]
    with ThreadPoolExecutor(8) as pool:
        said = list(
            pool.map(
                lambda n: installation.router.apply(attempts[n % 20], event=f"storm_{n % 20}")["duplicate"], range(60)
            )
        )
    assert Counter(said) == {False: 20, True: 40}
    assert [installation.home(user).entries(user) for user in users] == [[100]] * 20
    assert {installation.shard_of(user) for user in users} >= {0, 1, 2, 3}


def test_signed_in_users_are_themselves_on_the_shard(installation: Installation) -> None:
    mine, theirs = installation.new_user(2), installation.new_user(3)
    session = installation.new_session(theirs)
    me = installation.router.as_user(mine)
    own = me.rpc("get_or_create_checkout_session", p_plan="credits_100")
    assert [row["id"] for row in me.rpc("get_latest_checkout_session")] == [own]
    assert me.rpc("quote_checkout", p_plan="credits_100")["amount"] == 500
    with refused("PT403", "not_your_session"):
        me.rpc("get_or_create_checkout_session", p_plan="credits_100", p_user_id=theirs)
    with refused("PT403", "not_your_session"):
        me.rpc("cancel_checkout_session", p_session_id=session)
    with refused("42501"):
        me.rpc("complete_checkout_session", p_session_id=own)
    # the next caller on the same connections is somebody else
    assert (
        installation.router.as_service().rpc("cancel_checkout_session", p_session_id=session)["status"] == "cancelled"
    )


@pytest.mark.parametrize(
    ("function", "arguments", "sqlstate", "reason"),
    [
        ("open_checkout_attempt", {"p_session_id": NO_ONE}, "PT404", "session_not_found"),
        (
            "find_checkout_attempt",
            {"p_provider": "stripe", "p_provider_session_id": "cs_?"},
            "PT404",
            "session_not_found",
        ),
        ("finish_notification", {"p_id": 7}, "PT404", "notification_not_claimed"),
        ("get_or_create_checkout_session", {"p_plan": "credits_100"}, "PT422", "user_required"),
        ("apply_payment_outcome", {"p_outcome": {"status": "completed"}}, "PT422", "outcome_invalid"),
        ("apply_payment_outcomes", {"p_calls": {}}, "PT422", "invalid_input"),
        ("payment_report", {"p_days": 0}, "PT422", "invalid_input"),
        ("claim_notifications", {"p_limit": -1}, "PT422", "invalid_input"),
    ],
)
def test_errors_come_in_the_shards_own_words(
    installation: Installation, function: str, arguments: dict[str, object], sqlstate: str, reason: str
) -> None:
    said = []
    for database in (installation.router, installation.shards[0]):
        with refused(sqlstate, reason) as caught:
            database.as_service().rpc(function, **arguments)
        said.append((caught.value.diag.message_primary, caught.value.diag.message_hint))
    assert said[0] == said[1]


def test_outcomes_are_spread_not_gathered(installation: Installation) -> None:
    attempt = installation.router.open_attempt(installation.new_session(installation.new_user(3)))
    calls = [{"outcome": outcome(attempt), "event": None}]
    assert installation.router.as_service().rpc("apply_payment_outcomes", p_calls=calls) is None
    assert installation.router.apply(attempt)["already_completed"] is False


def test_providers_names_are_looked_for_on_all_shards(installation: Installation) -> None:
    router, service = installation.router, installation.router.as_service()
    attempt = router.open_attempt(installation.new_session(installation.new_user(3)), "cs_only_theirs")
    named = {"provider": "stripe", "provider_session_id": "cs_only_theirs"}
    known = service.rpc("find_checkout_attempt", p_provider="stripe", p_provider_session_id="cs_only_theirs")
    assert known["reference"] == attempt["reference"]
    paid = named | {
        "status": "completed", "provider_payment_id": "pi_theirs", "amount": 500, "currency": "USD", "source": "webhook"
    }  # fmt: skip
    assert service.rpc("apply_payment_outcome", p_outcome=paid)["fulfilment_status"] == "fulfilled"
    # what the news of a refund often names is the payment alone
    back = {"provider": "stripe", "provider_payment_id": "pi_theirs", "source": "webhook", "refunds": [
        {"provider_refund_id": "re_theirs", "amount": 500}
    ]}  # fmt: skip
    assert service.rpc("apply_payment_outcome", p_outcome=back)["status"] == "refunded"


def test_a_webhook_that_failed_is_listed_until_it_is_applied(installation: Installation) -> None:
    router, service = installation.router, installation.router.as_service()
    attempt = router.open_attempt(installation.new_session(installation.new_user(1)))
    for name, payload in (("evt_names", {"reference": attempt["reference"]}), ("evt_says_nothing", {}), ("evt_x", {})):
        event = {"id": name, "type": "t", "payload": payload}
        service.rpc("record_webhook_failure", p_provider="stripe", p_event=event, p_error="late", p_retryable=True)
    assert listed(installation) == ["evt_names", "evt_says_nothing", "evt_x"]
    for name, payload in (("evt_names", {"reference": attempt["reference"]}), ("evt_says_nothing", {}), ("evt_x", {})):
        said = {"provider": "stripe", "reference": attempt["reference"], "status": "failed", "source": "webhook"}
        service.rpc("apply_payment_outcome", p_outcome=said, p_event={"id": name, "type": "t", "payload": payload})
    assert listed(installation) == []


def listed(installation: Installation) -> list[str]:
    """The webhooks of the test above that count as failed."""
    rows = installation.router.as_service().rpc("list_webhook_failures", p_provider="stripe")
    return [row["event_id"] for row in rows if row["event_id"] in ("evt_names", "evt_says_nothing", "evt_x")]


def test_workers_get_what_is_due_on_every_shard_and_end_it_where_it_is(installation: Installation) -> None:
    service = installation.router.as_service()
    sessions = {
        installation.new_session(installation.new_user(shard), p_email="buyer@example.test") for shard in range(4)
    }
    for session in sessions:
        installation.router.complete(session, p_provider_payment_id=f"pi_{session}")
    claimed = service.rpc("claim_notifications", p_limit=2)
    assert len(claimed) == 2
    claimed += service.rpc("claim_notifications")
    letters = [row for row in claimed if row["session_id"] in sessions]
    assert {row["session_id"] for row in letters} == sessions
    assert len({row["id"] for row in claimed}) == len(claimed)
    for letter in claimed:
        service.rpc("finish_notification", p_id=letter["id"])
    assert {
        shard.value("select count(*) from payments.notifications where status = 'queued' and tries > 0")
        for shard in installation.shards
    } == {0}


def test_dead_letters_of_any_shard_are_dealt_with_where_they_are(installation: Installation) -> None:
    service = installation.router.as_service()
    session = installation.new_session(installation.new_user(3), p_email="buyer@example.test")
    installation.router.complete(session, p_provider_payment_id=f"pi_{session}")
    kill = "update payments.notifications set status = 'dead', finished_at = now() where session_id = %s"
    installation.shards[3].sql(kill, session)
    (letter,) = [row for row in service.rpc("list_dead_notifications") if row["session_id"] == session]
    service.rpc("retry_notification", p_id=letter["id"])
    assert session not in {row["session_id"] for row in service.rpc("list_dead_notifications")}
    for number in range(8):  # on whichever shards they are kept
        event = {"id": f"evt_dead_{number}", "type": "t", "payload": {}}
        service.rpc("record_webhook_failure", p_provider="stripe", p_event=event, p_error="no", p_retryable=False)
        service.rpc("close_webhook_failure", p_provider="stripe", p_event_id=event["id"], p_note="Ann: settled")
    assert [row for row in service.rpc("list_webhook_failures") if row["event_id"].startswith("evt_dead_")] == []
    with refused("PT404", "dead_letter_unknown"):
        service.rpc("close_webhook_failure", p_provider="stripe", p_event_id="evt_dead_0", p_note="Ann: again")
    service.rpc("add_session_note", p_session_id=session, p_note="Ann: called the buyer")
    assert "note" in {row["title"] for row in service.rpc("checkout_session_story", p_session_id=session)}


def test_reports_and_health_are_of_all_shards(installation: Installation) -> None:
    service = installation.router.as_service()
    before = service.rpc("payment_report")["totals"]["created"]
    for shard in range(4):
        installation.new_session(installation.new_user(shard))
    report = service.rpc("payment_report")
    assert report["totals"]["created"] == before + 4
    assert sum(day["created"] for day in report["by_day"]) == before + 4
    assert sum(one["totals"]["revenue"].get("USD", 0) for one in report["shards"]) == report["totals"]["revenue"]["USD"]
    assert report["totals"]["median_minutes"] is None
    pending = [one.value("select public.payment_health() -> 'sessions' -> 'pending'") for one in installation.shards]
    assert service.rpc("payment_health")["sessions"]["pending"] == sum(pending)
    for session in [installation.new_session() for _ in range(6)]:
        for one in installation.shards:
            one.lapse(session)
    assert service.rpc("expire_old_checkout_sessions") == 6


def test_each_shard_numbers_its_documents_in_a_series_of_its_own(installation: Installation) -> None:
    for shard, series in enumerate(("INV", "INV-1", "INV-2", "INV-3")):
        session = installation.new_session(installation.new_user(shard))
        installation.router.complete(session, p_provider_payment_id=f"pi_{session}")
        invoice = "select series from public.payment_invoices where session_id = %s"
        assert installation.shards[shard].value(invoice, session) == series


def test_a_shard_that_is_down_stops_its_own_users_only(installation: Installation) -> None:
    router, service = installation.router, installation.router.as_service()
    users = [installation.new_user(shard) for shard in range(4)]
    sessions = [installation.new_session(user) for user in users]
    attempts = [router.open_attempt(session) for session in sessions]
    installation.take_down(1)
    try:
        for shard in (0, 2, 3):
            assert router.apply(attempts[shard], event=f"down_{shard}")["status"] == "completed"
        with refused("08006") as caught:
            router.apply(attempts[1], event="down_1")
        assert caught.value.diag.message_primary == "Shard 1 does not answer."
        assert caught.value.diag.message_hint is not None
        with refused("08006"):
            service.rpc("get_or_create_checkout_session", p_plan="credits_100", p_user_id=users[1])
        # nobody can say that there is no such thing while one was not asked
        with refused("08006"):
            service.rpc("find_checkout_attempt", p_provider="stripe", p_provider_session_id="cs_nobody_knows")
        # what works on the others' behalf goes on; what would be wrong without it says so
        service.rpc("claim_sessions_to_reconcile")
        service.rpc("record_heartbeat", p_name="w")
        assert service.rpc("payment_health")["shards"] == {
            "asked": len(installation.shards),
            "answered": len(installation.shards) - 1,
        }
        for function in ("payment_report", "check_payment_invariants"):
            with refused("08006"):
                service.rpc(function)
    finally:
        installation.bring_back(1)
    assert router.apply(attempts[1], event="down_1")["status"] == "completed"
    assert [installation.home(user).entries(user) for user in users] == [[100]] * 4


def test_a_heartbeat_is_kept_in_one_place(installation: Installation) -> None:
    service = installation.router.as_service()
    installation.take_down(0)
    try:
        service.rpc("record_heartbeat", p_name="worker")
    finally:
        installation.bring_back(0)
    service.rpc("record_heartbeat", p_name="worker")
    kept = [
        shard.value("select count(*) from payments.heartbeats where name = 'worker'") for shard in installation.shards
    ]
    assert (kept[0], sum(kept)) == (1, 1)
    service.rpc("forget_heartbeat", p_name="worker")
    assert "worker" not in service.rpc("payment_health")["heartbeats"]


def test_the_bridges_own_transport_takes_the_router_for_a_database(installation: Installation) -> None:
    asyncio.run(calls_of_a_bridge(installation))


async def calls_of_a_bridge(installation: Installation) -> None:
    rpc = await connect_rpc(load_settings(_env_file=None, database_url=installation.router.url("postgres")))
    try:
        await rpc.check()
        user = installation.new_user(2)
        session = await rpc.get_or_create_checkout_session(user, {"p_plan": "credits_100"})
        opened = await rpc.open_checkout_attempt(session, "stripe")
        assert (await rpc.find_checkout_attempt(reference=opened.reference)).session_id == session
        with pytest.raises(SessionNotFound):
            await rpc.open_checkout_attempt(NO_ONE)
        assert (await rpc.payment_health())["shards"]["answered"] == len(installation.shards)
        assert await rpc.claim_notifications(5, ["reminder"]) == []
        installation.take_down(2)
        try:
            with pytest.raises(DatabaseUnavailable):
                await rpc.find_checkout_attempt(reference=opened.reference)
            await rpc.check()
        finally:
            installation.bring_back(2)
    finally:
        await rpc.close()
