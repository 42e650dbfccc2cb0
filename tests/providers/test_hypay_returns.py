"""HyPay on a real bridge: a buyer's return is the only news of a payment, and it pays one session, once."""

from __future__ import annotations

import html
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from urllib.parse import parse_qsl

import httpx
import pytest

from bridge.simulators.hypay import Fault, HyPaySimulator, Transaction, encoded
from tests.providers.life import ADMIN_TOKEN
from tests.support.bridge import Bridge, Buyer, query_of, running_bridge
from tests.support.database import Database, Row
from tests.support.races import all_at_once

THANKS, CART = "https://app.test/thanks", "https://app.test/cart"
PRICE = 1900  # of credits_100, in agorot


@pytest.fixture(scope="module")
def hypay_server() -> Iterator[HyPaySimulator]:
    with HyPaySimulator() as server:
        yield server


@pytest.fixture
def hypay(hypay_server: HyPaySimulator) -> HyPaySimulator:
    hypay_server.faults.clear()
    hypay_server.received.clear()
    hypay_server.charset, hypay_server.signs_failures = "utf-8", True
    return hypay_server


@pytest.fixture(scope="module")
def _running() -> Iterator[tuple[ExitStack, list[Bridge]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def bridge(db: Database, hypay: HyPaySimulator, _running: tuple[ExitStack, list[Bridge]]) -> Bridge:
    """One bridge for all tests: each test's database has the same address."""
    stack, running = _running
    if not running:
        running.append(stack.enter_context(running_bridge(db, hypay, admin_token=ADMIN_TOKEN)))
    assert running[0].db == db
    return running[0]


@pytest.fixture
def buyer(bridge: Bridge) -> Buyer:
    return bridge.buyer()


def begun(bridge: Bridge, buyer: Buyer) -> Row:
    """The attempt of a checkout in shekels."""
    opened = buyer.checkout(provider="hypay", currency="ILS")
    assert opened.status_code == 200, opened.text
    assert (opened.json()["amount"], opened.json()["currency"]) == (PRICE, "ILS")
    return bridge.attempt(opened.json()["session_id"])


@pytest.fixture
def attempt(bridge: Bridge, buyer: Buyer) -> Row:
    return begun(bridge, buyer)


def silent(_: object) -> httpx.Response:
    raise AssertionError("HyPay tells nobody anything")


def paid(hypay: HyPaySimulator, attempt: Row, amount: int | None = None) -> str:
    """The query of the return after a payment."""
    hypay.buyer_pays(attempt["checkout_url"], silent, amount=amount)
    return hypay.return_query(attempt["checkout_url"])


def come_back(bridge: Bridge, query: str) -> tuple[str, str]:
    """Where the buyer is sent, and the status in that address."""
    return sent_to(bridge.http.get(f"/return/hypay?{query}"))


def sent_to(response: httpx.Response) -> tuple[str, str]:
    assert response.status_code == 303, response.text
    return response.headers["location"].partition("?")[0], query_of(response)["status"]


def test_a_buyer_who_paid_is_thanked_and_has_the_goods(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    query = paid(hypay, attempt)
    assert come_back(bridge, query) == (THANKS, "completed")
    assert bridge.db.state(attempt["session_id"]) == ("completed", "fulfilled", None)
    assert bridge.db.balance(buyer.id) == 100
    (capture,) = bridge.db.captures(attempt["session_id"])
    assert (capture["amount"], capture["currency"]) == (PRICE, "ILS")
    assert capture["provider_payment_id"] == dict(parse_qsl(query))["Id"]
    assert buyer.verify(session_id=attempt["session_id"]).json()["success"]


def test_a_replayed_return_changes_nothing(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    query = paid(hypay, attempt)
    come_back(bridge, query)
    before = bridge.db.everything()
    assert come_back(bridge, query) == (THANKS, "completed")
    assert sent_to(bridge.http.post("/return/hypay", content=query)) == (THANKS, "completed")
    assert bridge.db.everything() == before


def test_a_return_that_comes_many_times_at_once_fulfils_once(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    query = paid(hypay, attempt)
    assert all_at_once([lambda: come_back(bridge, query)] * 6) == [(THANKS, "completed")] * 6
    assert bridge.db.entries(buyer.id) == [100]


def test_one_session_s_return_pays_no_other(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    other_buyer = bridge.buyer()
    other = begun(bridge, other_buyer)
    query = paid(hypay, attempt)
    assert come_back(bridge, query.replace(attempt["reference"], other["reference"])) == (THANKS, "unknown")
    assert come_back(bridge, query) == (THANKS, "completed")
    assert come_back(bridge, query.replace(attempt["reference"], other["reference"])) == (THANKS, "unknown")
    assert bridge.db.session(other["session_id"])["status"] == "pending"
    assert bridge.db.balance(other_buyer.id) == 0


def test_even_a_signed_payment_pays_only_once(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    other_buyer = bridge.buyer()
    other = begun(bridge, other_buyer)
    query = paid(hypay, attempt)
    come_back(bridge, query)
    same_payment = Transaction(dict(parse_qsl(query))["Id"], 0, other["reference"], PRICE, "1")
    assert come_back(bridge, hypay.return_of(same_payment)) == (THANKS, "unknown")
    assert bridge.db.session(other["session_id"])["status"] == "pending"
    assert bridge.db.balance(other_buyer.id) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Amount=19", "Amount=20"),
        ("CCode=4", "CCode=0"),
        ("Id=9", "Id=8"),
        ("Sign=", "Sing="),
        ("Coin=1", "Coin=2"),
        ("CCode=4", "CCode=4&CCode=0"),
        ("CCode=4", "ccode=0&CCode=4"),
        ("Hesh=0", "Hesh=0&cvv=123"),
        ("Hesh=0", "Hesh=0&card=4580458045804580"),
    ],
)
def test_a_declined_buyer_cannot_write_a_better_return(
    bridge: Bridge, hypay: HyPaySimulator, attempt: Row, old: str, new: str
) -> None:
    hypay.buyer_is_declined(attempt["checkout_url"], silent)
    query = hypay.return_query(attempt["checkout_url"]).replace(old, new)
    assert new in query
    before = bridge.db.everything()
    hypay.received.clear()
    come_back(bridge, query)
    assert bridge.db.everything() == before
    assert not hypay.received


@pytest.mark.parametrize("amount", [1, PRICE - 1])
def test_too_little_money_buys_nothing_and_is_flagged(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row, amount: int
) -> None:
    query = paid(hypay, attempt, amount)
    assert come_back(bridge, query) == (CART, "failed")
    assert bridge.db.state(attempt["session_id"]) == ("failed", "none", "amount_mismatch")
    assert [capture["amount"] for capture in bridge.db.captures(attempt["session_id"])] == [amount]
    assert bridge.db.balance(buyer.id) == 0


@pytest.mark.parametrize("charset", ["utf-8", "cp1255"])
@pytest.mark.parametrize("way", ["query", "form", "raw form", "half and half"])
def test_a_hebrew_name_comes_any_way(
    bridge: Bridge, hypay: HyPaySimulator, attempt: Row, charset: str, way: str
) -> None:
    hypay.charset = charset
    query = paid(hypay, attempt)
    name = hypay.buyer[0].encode(charset)
    assert encoded(name) in query
    head, _, tail = query.partition("&Bank=")
    ways: dict[str, tuple[str, str, bytes]] = {
        "query": ("GET", query, b""),
        "form": ("POST", "", query.replace("%20", "+").encode()),
        "raw form": ("POST", "", query.encode().replace(encoded(name).encode(), name)),
        "half and half": ("POST", head, f"Bank={tail}".encode()),
    }
    method, in_address, form = ways[way]
    response = bridge.http.request(method, f"/return/hypay?{in_address}", content=form)
    assert sent_to(response) == (THANKS, "completed")


def test_a_form_may_not_contradict_the_address(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    query = paid(hypay, attempt)
    response = bridge.http.post(f"/return/hypay?Order={'0' * 32}", content=query)
    assert sent_to(response) == (THANKS, "unknown")
    assert bridge.db.session(attempt["session_id"])["status"] == "pending"


def test_raw_bytes_in_an_address_are_no_fault_of_ours(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    query = paid(hypay, attempt)
    name = hypay.buyer[0]
    for raw in (name.encode("cp1255"), name.encode()):
        target = b"/return/hypay?" + query.encode().replace(encoded(name).encode(), raw.replace(b" ", b"%20"))
        address = httpx.URL(bridge.url)
        with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: bridge.test\r\nConnection: close\r\n\r\n")
            status = connection.makefile("rb").readline().split()[1]
        assert status in (b"303", b"400")  # the server may refuse the line before we see it
    assert come_back(bridge, query) == (THANKS, "completed")


def test_a_buyer_who_never_comes_back_is_not_known_to_have_paid(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    query = paid(hypay, attempt)
    told = buyer.verify(session_id=attempt["session_id"]).json()
    assert (told["success"], told["verified"], told["payment_status"]) == (False, False, "pending")
    bridge.db.lapse(attempt["session_id"])
    bridge.db.as_service().rpc("expire_old_checkout_sessions")
    assert bridge.db.session(attempt["session_id"])["status"] == "expired"
    # days later the tab is opened again
    assert come_back(bridge, query) == (THANKS, "completed")
    assert bridge.db.state(attempt["session_id"]) == ("completed", "fulfilled", None)
    assert bridge.db.balance(buyer.id) == 100


def test_a_declined_buyer_is_at_the_cart_and_starts_again(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    hypay.buyer_is_declined(attempt["checkout_url"], silent)
    assert come_back(bridge, hypay.return_query(attempt["checkout_url"])) == (CART, "failed")
    again = begun(bridge, buyer)
    assert again["reference"] != attempt["reference"]
    assert come_back(bridge, paid(hypay, again)) == (THANKS, "completed")
    assert bridge.db.entries(buyer.id) == [100]


def test_a_declined_buyer_who_tries_another_card_on_the_same_page_has_paid(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    hypay.buyer_is_declined(attempt["checkout_url"], silent)
    come_back(bridge, hypay.return_query(attempt["checkout_url"]))
    assert come_back(bridge, paid(hypay, attempt)) == (THANKS, "completed")
    assert bridge.db.entries(buyer.id) == [100]


def test_a_failure_that_hypay_did_not_sign_leaves_the_page_open(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    hypay.signs_failures = False
    hypay.buyer_is_declined(attempt["checkout_url"], silent)
    assert come_back(bridge, hypay.return_query(attempt["checkout_url"])) == (CART, "pending")
    assert begun(bridge, buyer)["checkout_url"] == attempt["checkout_url"]
    assert come_back(bridge, paid(hypay, attempt)) == (THANKS, "completed")


def test_a_return_while_hypay_is_away_can_be_repeated(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    query = paid(hypay, attempt)
    hypay.faults.extend([Fault(garbled=True, body=b"CCode=999")] * 3)
    wait = bridge.http.get(f"/return/hypay?{query}")
    assert (wait.status_code, wait.headers["cache-control"]) == (503, "no-store")
    again = re.search('content="5; url=([^"]+)"', wait.text)
    assert again
    (kept,) = bridge.webhook_events()
    assert (kept["status"], kept["error"], kept["payload"]) == (
        "failed", "provider_unavailable", {"reference": attempt["reference"]},
    )  # fmt: skip
    assert html.unescape(again[1]) == f"/return/hypay?{query}"  # byte for byte, as it is signed
    assert sent_to(bridge.http.get(html.unescape(again[1]))) == (THANKS, "completed")
    assert [event["status"] for event in bridge.webhook_events()] == ["handled"]


def test_a_return_while_the_database_is_away_waits_too(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    query = paid(hypay, attempt)
    bridge.db.sql("alter function public.find_checkout_attempt rename to gone")
    assert bridge.http.get(f"/return/hypay?{query}").status_code == 303  # not an outage: repeating would not help
    bridge.db.sql("alter function public.gone rename to find_checkout_attempt")
    assert come_back(bridge, query) == (THANKS, "completed")


def test_a_second_payment_on_the_same_page_is_recorded_and_flagged(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    assert come_back(bridge, paid(hypay, attempt)) == (THANKS, "completed")
    assert come_back(bridge, paid(hypay, attempt)) == (THANKS, "completed")
    assert len(bridge.db.captures(attempt["session_id"])) == 2
    assert bridge.db.state(attempt["session_id"]) == ("completed", "fulfilled", "duplicate_payment")
    assert bridge.db.balance(buyer.id) == 100


def test_after_hypay_s_time_out_there_is_a_new_page_and_the_old_one_still_counts(
    bridge: Bridge, buyer: Buyer, hypay: HyPaySimulator, attempt: Row
) -> None:
    lives = bridge.db.value(
        "select extract(epoch from expires_at - now()) from payments.attempts where number = %s", attempt["number"]
    )
    assert 19 * 60 < lives <= 20 * 60
    assert bridge.db.session(attempt["session_id"])["expires_at"] > attempt["expires_at"]
    bridge.db.sql(
        "update payments.attempts set expires_at = now() + interval '30 s' where number = %s", attempt["number"]
    )
    again = begun(bridge, buyer)
    assert again["session_id"] == attempt["session_id"]
    assert again["checkout_url"] != attempt["checkout_url"]
    assert come_back(bridge, paid(hypay, attempt)) == (THANKS, "completed")
    assert bridge.db.entries(buyer.id) == [100]


def test_a_refund_whose_answer_was_lost_counts_until_a_person_knows_better(
    bridge: Bridge, hypay: HyPaySimulator, attempt: Row
) -> None:
    come_back(bridge, paid(hypay, attempt))
    hypay.faults.append(Fault(lost=True))
    answers = [refund(bridge, attempt, amount, key) for amount, key in ((500, "a"), (500, "a"), (500, ""), (900, "b"))]
    assert [answer.status_code for answer in answers] == [502] * 4
    assert {answer.json()["error"]["reason"] for answer in answers} == {"refund_in_doubt"}
    assert hypay.given_back(attempt["checkout_url"]) == 500
    (known,) = bridge.db.sql("select provider_refund_id, amount, status from public.payment_refunds")
    assert (known["amount"], known["status"]) == (500, "pending")
    assert known["provider_refund_id"] in answers[0].json()["error"]["message"]
    # the operator has looked in the portal
    bridge.db.as_service().rpc(
        "refund_checkout_session", p_session_id=attempt["session_id"], p_amount=500,
        p_provider_refund_id=known["provider_refund_id"],
    )  # fmt: skip
    assert refund(bridge, attempt, 900, "b").json()["refundable_amount"] == PRICE - 1400
    assert hypay.given_back(attempt["checkout_url"]) == 1400


def test_a_refund_that_did_not_begin_can_be_ordered_again_under_its_key(
    bridge: Bridge, hypay: HyPaySimulator, attempt: Row
) -> None:
    come_back(bridge, paid(hypay, attempt))
    hypay.faults.append(Fault(status=429))
    assert [refund(bridge, attempt, 500, "a").status_code for _ in range(3)] == [502, 200, 200]
    assert hypay.given_back(attempt["checkout_url"]) == 500
    assert bridge.db.session(attempt["session_id"])["refunded_amount"] == 500
    refunds = bridge.db.sql("select amount, status from public.payment_refunds order by created_at")
    assert [(known["amount"], known["status"]) for known in refunds] == [(500, "failed"), (500, "succeeded")]


def test_two_orders_at_once_that_are_too_much_together_give_back_one(
    bridge: Bridge, hypay: HyPaySimulator, attempt: Row
) -> None:
    come_back(bridge, paid(hypay, attempt))
    answers = all_at_once([partial(refund, bridge, attempt, 1000, key) for key in ("a", "b")])
    assert 200 in [answer.status_code for answer in answers] or hypay.given_back(attempt["checkout_url"]) == 0
    assert hypay.given_back(attempt["checkout_url"]) <= 1000
    assert bridge.db.session(attempt["session_id"])["refunded_amount"] == hypay.given_back(attempt["checkout_url"])
    assert bridge.db.sql("select from public.payment_refunds where status = 'pending'") == []


def refund(bridge: Bridge, attempt: Row, amount: int, key: str) -> httpx.Response:
    return bridge.http.post(
        "/admin/refunds",
        json={"session_id": str(attempt["session_id"]), "amount": amount},
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}"} | ({"Idempotency-Key": key} if key else {}),
    )


def test_a_return_that_hypay_will_not_confirm_is_kept(bridge: Bridge, hypay: HyPaySimulator, attempt: Row) -> None:
    query = paid(hypay, attempt)
    hypay.faults.append(Fault(garbled=True, body=b"CCode=902"))  # its password was changed, say
    assert come_back(bridge, query) == (THANKS, "pending")
    (kept,) = bridge.webhook_events()
    assert (kept["status"], kept["error"]) == ("dead", "provider_refused")
    assert come_back(bridge, query) == (THANKS, "completed")
    assert [event["status"] for event in bridge.webhook_events()] == ["handled"]


def test_what_is_nobody_s_leads_to_the_cart(bridge: Bridge) -> None:
    for query in ("", "x=y", "order=1", f"Order={'0' * 32}&CCode=0", "Order=%ff%fe&CCode=0"):
        assert come_back(bridge, query) == (CART, "unknown"), query


def test_a_webhook_has_no_door_here(bridge: Bridge) -> None:
    assert bridge.http.post("/webhooks/hypay", content=b"CCode=0").status_code == 404
    assert bridge.webhook_events() == []


def test_nothing_of_the_buyer_or_of_the_credentials_is_logged_or_stored(
    bridge: Bridge, hypay: HyPaySimulator, attempt: Row, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    query = paid(hypay, attempt)
    come_back(bridge, query.replace("Amount=19", "Amount=18"))
    come_back(bridge, f"{query}&cvv=98765")
    hypay.faults.extend([Fault(lost=True)] * 3)
    assert bridge.http.get(f"/return/hypay?{query}").status_code == 503
    come_back(bridge, query)
    # the simulated HyPay logs its requests in this process too
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]
    written = "\n".join(map(logging.Formatter().format, ours))
    assert "signature_invalid" in written
    everything = f"{written}{bridge.db.everything()}"
    values = dict(parse_qsl(query))
    name, email, phone = hypay.buyer
    for secret in (hypay.key, hypay.password, encoded(hypay.password), name, email, phone, values["Sign"], "98765"):
        assert secret not in everything, secret
        assert encoded(secret) not in everything, secret
