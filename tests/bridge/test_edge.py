"""What every request meets and every answer carries: headers, limits per address, time for bodies but not for work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bridge.api import create_app, server
from bridge.api.edge import Meter
from bridge.local.serving import listening, serving
from bridge.simulators.base import Delivery
from bridge.simulators.click import ClickSimulator
from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer, running_bridge, wait_until
from tests.support.database import Database

SHOP = "https://shop.test"
STRANGER, ANOTHER = "8.8.8.8", "9.9.9.9"  # those for documentation do not count as public


def reason(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["reason"]


class TestHeaders:
    def answers(self, bridge: Bridge, buyer: Buyer) -> list[httpx.Response]:
        opened = buyer.checkout(provider="sandbox")
        get, post = bridge.http.get, bridge.http.post
        return [
            opened, get("/healthz"), get("/nowhere"), get("/checkout"), post("/verify"), get("/resume/x"),
            buyer.verify(session_id=opened.json()["session_id"]), get("/return/sandbox"), get("/return/Nobody"),
            post("/webhooks/stripe", content=b"{}"), post("/admin/jobs/expire"), get("/metrics"), get("/docs"),
            get("/openapi.json"), get(opened.json()["checkout_url"]), buyer.post("/checkout", content=b"{"),
            buyer.post("/verify", content=b"x" * 600_000),
        ]  # fmt: skip

    def test_every_answer_has_them(self, bridge: Bridge, buyer: Buyer) -> None:
        for answer in self.answers(bridge, buyer):
            headers = answer.headers
            assert headers["x-content-type-options"] == "nosniff", answer.url
            assert headers["x-frame-options"] == "DENY", answer.url
            assert headers["referrer-policy"] == "no-referrer", answer.url
            assert headers["cache-control"] == "no-store", answer.url
            assert "frame-ancestors 'none'" in headers["content-security-policy"], answer.url
            assert "default-src 'none'" in headers["content-security-policy"], answer.url
            assert len(headers.get_list("content-security-policy")) == 1, answer.url
            assert len(headers["x-request-id"]) == 32, answer.url
            assert "server" not in headers, answer.url
            assert "strict-transport-security" not in headers, answer.url

    def test_only_pages_may_load_anything(self, bridge: Bridge, buyer: Buyer) -> None:
        strict = "default-src 'none'; frame-ancestors 'none'"
        lax = {
            str(answer.url.path).rpartition("/page_")[0] or answer.url.path
            for answer in self.answers(bridge, buyer)
            if answer.headers["content-security-policy"] != strict
        }
        assert lax == {"/docs", "/sandbox/pay"}

    def test_https_stays_https(self, db: Database) -> None:
        with running_bridge(db, public_url="https://pay.shop.test") as bridge:
            assert bridge.http.get("/healthz").headers["strict-transport-security"] == "max-age=31536000"

    def test_production_describes_itself_to_nobody(self, db: Database) -> None:
        with running_bridge(db, environment="production", sandbox_secret="") as bridge:
            for path in ("/docs", "/redoc", "/openapi.json"):
                assert reason(bridge.http.get(path)) == (404, "http_404")


class TestOtherOrigins:
    @pytest.fixture
    def bridge(self, db: Database) -> Iterator[Bridge]:
        limits: dict[str, Any] = {"requests_per_minute": 2, "trusted_proxies": "127.0.0.1"}
        with running_bridge(db, cors_origins=SHOP, **limits) as running:
            yield running

    def ask(self, bridge: Bridge, origin: str, **headers: str) -> httpx.Response:
        return bridge.http.post("/verify", json={}, headers={"Origin": origin, **headers})

    def test_a_named_origin_may_read_every_answer_also_a_refusal(self, bridge: Bridge) -> None:
        refused = [self.ask(bridge, SHOP, **{"X-Forwarded-For": STRANGER}) for _ in range(3)]
        assert [answer.status_code for answer in refused] == [401, 401, 429]
        for answer in refused:
            assert answer.headers["access-control-allow-origin"] == SHOP
            assert answer.headers["access-control-expose-headers"] == "retry-after, x-request-id"

    def test_no_other_origin_may(self, bridge: Bridge) -> None:
        assert "access-control-allow-origin" not in self.ask(bridge, "https://evil.test").headers
        asked = {"Origin": "https://evil.test", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in bridge.http.options("/checkout", headers=asked).headers

    def test_none_may_unless_named(self, db: Database) -> None:
        with running_bridge(db) as bridge:
            assert not any(name.startswith("access-control") for name in self.ask(bridge, SHOP).headers)


class TestLimitPerAddress:
    LIMIT = 3

    @pytest.fixture
    def bridge(self, db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
        with running_bridge(
            db, stripe, requests_per_minute=self.LIMIT, trusted_proxies="127.0.0.1,10.0.0.0/8"
        ) as running:
            yield running

    def ask(self, bridge: Bridge, address: str | None, path: str = "/verify", method: str = "POST") -> httpx.Response:
        return bridge.http.request(method, path, headers={"X-Forwarded-For": address} if address else {})

    def exhaust(self, bridge: Bridge, address: str) -> None:
        assert [self.ask(bridge, address).status_code for _ in range(self.LIMIT)] == [401] * self.LIMIT

    def test_too_many_requests_of_one_address_wait(self, bridge: Bridge) -> None:
        self.exhaust(bridge, STRANGER)
        refused = self.ask(bridge, STRANGER)
        assert reason(refused) == (429, "too_many_requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["error"]["hint"] == f"retry_after={refused.headers['retry-after']}"
        assert self.ask(bridge, STRANGER, "/nowhere", "GET").status_code == 429
        assert self.ask(bridge, ANOTHER).status_code == 401

    def test_what_the_caller_says_of_itself_does_not_count(self, bridge: Bridge) -> None:
        for number in range(self.LIMIT):
            self.ask(bridge, f"7.7.7.{number}, {STRANGER}, 10.0.0.1")
        assert self.ask(bridge, STRANGER).status_code == 429

    def test_an_ipv6_network_is_one_address(self, bridge: Bridge) -> None:
        self.exhaust(bridge, "2606:4700::1")
        assert self.ask(bridge, "2606:4700::ffff:2").status_code == 429
        assert self.ask(bridge, "2606:4700:0:1::1").status_code == 401

    def test_addresses_that_cannot_be_known_are_not_limited(self, bridge: Bridge) -> None:
        for address in (None, "192.168.1.1", "unknown"):
            assert [self.ask(bridge, address).status_code for _ in range(self.LIMIT + 1)] == [401] * (self.LIMIT + 1)

    def test_genuine_webhooks_are_not_limited(self, bridge: Bridge, stripe: StripeSimulator) -> None:
        session_id = bridge.buyer().checkout().json()["session_id"]
        events = stripe.pay(bridge.attempt(session_id)["provider_session_id"])
        for event in events * self.LIMIT * 2:
            headers, body = stripe.sign(event)
            told = bridge.http.post("/webhooks/stripe", headers=headers | {"X-Forwarded-For": STRANGER}, content=body)
            assert told.status_code == 200
        self.exhaust(bridge, STRANGER)

    def test_forged_ones_are_and_a_genuine_one_is_asked_to_come_again(
        self, bridge: Bridge, stripe: StripeSimulator
    ) -> None:
        session_id = bridge.buyer().checkout().json()["session_id"]
        headers, body = stripe.sign(stripe.pay(bridge.attempt(session_id)["provider_session_id"])[-1])
        for _ in range(self.LIMIT):
            assert self.ask(bridge, STRANGER, "/webhooks/stripe").status_code == 400
        told = bridge.http.post("/webhooks/stripe", headers=headers | {"X-Forwarded-For": STRANGER}, content=body)
        assert reason(told) == (429, "too_many_requests")
        assert bridge.deliver("stripe", (headers, body)).status_code == 200

    def test_what_comes_after_the_body_does_not_change_the_address(self, bridge: Bridge) -> None:
        head = HEAD + b"X-Forwarded-For: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % STRANGER.encode()
        for number in range(self.LIMIT):
            with connected(bridge) as connection:
                connection.sendall(head + b"2\r\n{}\r\n0\r\nX-Forwarded-For: 7.7.7.%d\r\n\r\n" % number)
                assert b" 400 " in connection.recv(65_536)
        assert self.ask(bridge, STRANGER, "/webhooks/stripe").status_code == 429

    @pytest.mark.parametrize("forged", [True, False])
    def test_they_count_where_the_provider_wants_200_too(self, db: Database, forged: bool) -> None:
        limits: dict[str, Any] = {"requests_per_minute": self.LIMIT, "trusted_proxies": "127.0.0.1"}
        with ClickSimulator() as click, running_bridge(db, click, default_provider="click", **limits) as bridge:
            asked: list[httpx.Response] = []

            def told(delivery: Delivery) -> httpx.Response:
                headers, body = click.forged(delivery) if forged else delivery
                sent = headers | {"X-Forwarded-For": STRANGER}
                asked.append(bridge.http.post("/webhooks/click", headers=sent, content=body))
                return asked[-1]

            page = bridge.buyer().checkout(currency="UZS").json()["checkout_url"]
            for _ in range(self.LIMIT):
                click.buyer_pays(page, told)
            with pytest.raises(AssertionError, match="too_many_requests") if forged else contextlib.nullcontext():
                click.buyer_pays(page, told)  # Click takes 200 only
        assert {answer.status_code for answer in asked[: self.LIMIT]} == {200}
        assert asked[-1].status_code == (429 if forged else 200)

    def test_names_of_providers_cannot_be_tried(self, bridge: Bridge) -> None:
        asked = [self.ask(bridge, STRANGER, f"/webhooks/name{number}").status_code for number in range(self.LIMIT + 1)]
        assert asked == [422] * self.LIMIT + [429]

    def test_a_buyer_who_comes_back_is_kept_on_a_page_that_comes_again(self, bridge: Bridge) -> None:
        self.exhaust(bridge, STRANGER)
        kept = self.ask(bridge, STRANGER, "/return/stripe?page=cs_1", "GET")
        assert kept.status_code == 429
        assert f'http-equiv="refresh" content="{kept.headers["retry-after"]}"' in kept.text
        assert kept.headers["content-type"].startswith("text/html")
        # a form cannot come again
        assert self.ask(bridge, STRANGER, "/return/stripe").status_code == 303

    def test_it_can_be_switched_off(self, db: Database) -> None:
        with running_bridge(db, requests_per_minute=0, trusted_proxies="127.0.0.1") as bridge:
            assert {self.ask(bridge, STRANGER).status_code for _ in range(20)} == {401}


class TestMeter:
    def test_it_lets_so_many_pass_per_minute_however_they_are_spread(self) -> None:
        meter = Meter(60)
        assert [meter.wait(1, 100.0) for _ in range(60)] == [0] * 60
        assert meter.wait(1, 100.0) == 1
        assert meter.wait(1, 101.5) == 0
        assert meter.wait(1, 101.5) == 1
        assert meter.wait(2, 101.5) == 0
        assert [meter.wait(1, 1000.0) for _ in range(61)] == [0] * 60 + [1]

    def test_looking_counts_nothing(self) -> None:
        meter = Meter(1)
        assert [meter.wait(1, 0.0, take=False) for _ in range(9)] == [0] * 9
        assert meter.wait(1, 0.0) == 0
        assert meter.wait(1, 0.0, take=False) == 60

    def test_its_memory_is_bounded_and_the_worst_stay_remembered(self) -> None:
        meter = Meter(10, most=100)
        for _ in range(10):
            meter.wait(-1, 0.0)
        for key in range(10_000):
            meter.wait(key, 0.0)
            assert len(meter) <= 100
        assert meter.wait(-1, 0.0) > 0


@contextlib.contextmanager
def connected(bridge: Bridge) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", httpx.URL(bridge.url).port or 0), timeout=20.0) as connection:
        yield connection


def said_until_the_end(connection: socket.socket) -> bytes:
    """All that still comes; fails when the other side does not hang up."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while received := connection.recv(65_536):
            said += received
    return said


HEAD = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_no_answer_waits_for_an_acknowledgement(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    accept = server.PatientProtocol.connection_made

    def accepted(self: server.PatientProtocol, transport: asyncio.Transport) -> None:
        accept(self, transport)
        connection: socket.socket = transport.get_extra_info("socket")
        at_once.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(server.PatientProtocol, "connection_made", accepted)
    assert httpx.get(bridge.url + "/healthz").status_code == 200
    assert at_once == [1]


def test_monitors_may_ask_with_head_and_nobody_else_may(bridge: Bridge) -> None:
    with httpx.Client(
        base_url=bridge.url
    ) as http:  # one connection: a body that came along would spoil the next answer
        for path in ("/healthz", "/readyz", "/metrics", "/dashboard"):
            asked, told = http.head(path), http.get(path)
            assert (asked.status_code, asked.content) == (told.status_code, b"")
            assert asked.headers.get("content-type") == told.headers.get("content-type")
        # it acts: who only looks must not come back from a provider
        assert http.head("/return/stripe?session_id=x").status_code == 405


class TestSlowCallers:
    @pytest.fixture
    def bridge(self, db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
        with running_bridge(db, stripe, max_body_seconds=0.4) as running:
            yield running

    def test_a_body_that_trickles_in_is_cut_off(self, bridge: Bridge) -> None:
        with connected(bridge) as connection:
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
            stop = threading.Event()

            def trickle() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(0.05):
                        connection.sendall(b" ")

            thread = threading.Thread(target=trickle)
            thread.start()
            said = said_until_the_end(connection)
            stop.set()
            thread.join()
        assert b" 408 " in said.splitlines()[0]
        assert b'"body_too_slow"' in said
        assert b"connection: close" in said.lower()

    def test_the_work_is_never_cut_off(self, bridge: Bridge, stripe: StripeSimulator) -> None:
        stripe.faults.append(Fault(latency=1.0))
        assert bridge.buyer().checkout().status_code == 200

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
            b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{",
        ],
        ids=["nothing", "half a head", "half a body that nobody reads"],
    )
    def test_a_connection_that_does_not_get_on_is_closed(
        self, bridge: Bridge, monkeypatch: pytest.MonkeyPatch, said: bytes
    ) -> None:
        monkeypatch.setattr(server, "REQUEST_SECONDS", 0.4)
        with connected(bridge) as connection:
            connection.sendall(said)
            stop = threading.Event()

            def trickle() -> None:
                with contextlib.suppress(OSError):
                    while said and not stop.wait(0.05):
                        connection.sendall(b"x")

            thread = threading.Thread(target=trickle)
            thread.start()
            said_until_the_end(connection)
            stop.set()
            thread.join()

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 200_000,
            b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 40_000,
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000,
        ],
        ids=["an endless header", "endless headers", "a thousand requests at once"],
    )
    def test_a_connection_that_would_fill_the_memory_is_closed(
        self, bridge: Bridge, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        monkeypatch.setattr(server, "REQUEST_SECONDS", 60.0)  # not because it is slow
        with connected(bridge) as connection:
            with contextlib.suppress(OSError):  # it need not take all of that
                connection.sendall(sent)
            said = said_until_the_end(connection)
        assert said.count(b" 200 OK") <= 16
        assert bridge.http.get("/healthz").status_code == 200

    def test_some_requests_may_come_before_the_first_is_answered(self, bridge: Bridge) -> None:
        with connected(bridge) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 16)
            said = b""
            while said.count(b'{"status":"ok"}') < 16 and (received := connection.recv(65_536)):
                said += received
            assert said.count(b'{"status":"ok"}') == 16

    def test_large_bodies_are_no_headers(self, bridge: Bridge) -> None:
        with connected(bridge) as connection:
            body = b"%x\r\n%b\r\n" % (4_000, b"x" * 4_000) * 50
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
            assert b'"signature_invalid"' in connection.recv(65_536) + connection.recv(65_536)

    def test_one_that_gets_on_is_not(
        self, bridge: Bridge, stripe: StripeSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "REQUEST_SECONDS", 0.4)
        stripe.faults.append(Fault(latency=1.0))
        with httpx.Client(base_url=bridge.url) as http:
            assert http.get("/healthz").status_code == 200
            buyer = bridge.buyer()
            headers = {"Authorization": f"Bearer {buyer.token}"}
            assert http.post("/checkout", json={"plan": "credits_100"}, headers=headers).status_code == 200
            assert http.get("/healthz").status_code == 200

    def test_two_requests_at_once_on_one_connection_are_both_answered(self, bridge: Bridge) -> None:
        ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
        with connected(bridge) as connection:
            connection.sendall(ask + b"\r\n" + ask + b"Connection: close\r\n\r\n")
            assert said_until_the_end(connection).count(b"HTTP/1.1 200") == 2


class TestTooMuch:
    def test_more_at_once_than_allowed_are_sent_away(self, db: Database, stripe: StripeSimulator) -> None:
        with running_bridge(db, stripe, max_concurrent_requests=1) as bridge:
            stripe.faults.append(Fault(latency=3.0))
            stripe.received.clear()
            answers: list[httpx.Response] = []
            thread = threading.Thread(target=lambda: answers.append(bridge.buyer().checkout()))
            thread.start()
            wait_until(lambda: stripe.received)
            refused = httpx.get(f"{bridge.url}/readyz")
            assert reason(refused) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            kept = httpx.get(f"{bridge.url}/return/stripe?page=x")
            assert kept.status_code == 503
            assert "refresh" in kept.text
            thread.join()
            assert answers[0].status_code == 200
            assert bridge.http.get("/readyz").status_code == 200

    @pytest.mark.parametrize("length", ["600000", "9" * 400])
    def test_an_announced_body_that_is_too_large_is_refused_unread(self, bridge: Bridge, length: str) -> None:
        with connected(bridge) as connection:
            connection.sendall(HEAD + b"Connection: close\r\nContent-Length: " + length.encode() + b"\r\n\r\n")
            said = said_until_the_end(connection)
        assert b" 413 " in said.splitlines()[0] or b" 400 " in said.splitlines()[0]
        assert length != "600000" or b'"body_too_large"' in said

    @pytest.mark.parametrize(
        ("said", "status"),
        [
            (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n", b"400"),
            (b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
            (b"GET /resume/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"303"),
            (b"GET /re\x00sume HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
            (b"GET /nowhere/%00%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
            (b"POST /webhooks/a%00b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"422"),
            (b"nonsense\r\n\r\n", b"400"),
        ],
        ids=["header", "path", "escaped NUL", "NUL", "NUL nowhere", "NUL in a name", "nonsense"],
    )  # fmt: skip
    def test_what_is_no_decent_request_is_refused(self, bridge: Bridge, said: bytes, status: bytes) -> None:
        with connected(bridge) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(said)
            answer = said_until_the_end(connection)
        assert answer.split(b" ", 2)[1] == status
        assert b"Traceback" not in answer


def test_what_nobody_thought_of_is_logged_once_and_not_shown(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    with running_bridge(db) as known, listening() as listener:
        app = create_app(known.settings)
        with serving(app, listener) as url:
            context, app.state.context = app.state.context, "not what it should be"
            answer = httpx.get(f"{url}/readyz", headers={"X-Request-Id": "odd"})
            app.state.context = context
    assert reason(answer) == (500, "internal_error")
    assert "AssertionError" not in answer.text
    assert answer.headers["x-request-id"] == "odd"
    assert answer.headers["cache-control"] == "no-store"
    (record,) = (record for record in caplog.records if record.exc_info)
    assert (record.name, record.levelno, record.getMessage()) == ("pgcheckout", logging.ERROR, "an unexpected error")
