"""Two bridges behind nginx, as docs/scaling.md shows it, in front of the router."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bridge.simulators.stripe import StripeSimulator
from tests.sharding.conftest import Installation
from tests.support.bridge import KEYS, Bridge, Buyer, StripeDesk, wait_until
from tests.support.database import REPOSITORY
from tests.support.parts import path_of
from tests.support.processes import Processes, free_port

pytestmark = [pytest.mark.needs("plproxy"), pytest.mark.needs("nginx")]

BUYERS = 16


@contextlib.contextmanager
def nginx(program: Path, folder: Path, one: int, other: int) -> Iterator[str]:
    """The configuration of the document, on this machine's ports; its address."""
    (shown,) = re.findall(
        "^```nginx\n(.*?)^```", (REPOSITORY / "docs/scaling.md").read_text(), re.DOTALL | re.MULTILINE
    )
    port = free_port()
    for there, here in (
        ("10.0.0.11:8000", f"127.0.0.1:{one}"), ("10.0.0.12:8000", f"127.0.0.1:{other}"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
    ):  # fmt: skip
        assert shown.count(there) == 1
        shown = shown.replace(there, here)
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # to write where the test may
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/log; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{shown}}}\n"
    )
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-e", folder / "log"])
    try:
        wait_until(lambda: process.poll() is None and (folder / "pid").exists())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def webhooks_of(bridge: Bridge) -> float:
    return bridge.counted("stripe", "applied") + bridge.counted("stripe", "duplicate")


def test_webhooks_go_to_both_one_is_killed_and_nothing_is_lost(
    installation: Installation, stripe: StripeSimulator, tmp_path: Path
) -> None:
    settings = {
        "environment": "development", "public_url": "http://127.0.0.1:9", "success_url": "https://app.test/thanks",
        "cancel_url": "https://app.test/cart", "jwt_secret": KEYS.shared_secret,
        "database_url": installation.router.url("postgres"), **stripe.settings(),
    }  # fmt: skip
    ports, users = (free_port(), free_port()), [installation.new_user() for _ in range(BUYERS)]
    with (
        Processes() as processes,
        processes.bridge(installation.router, ports[0], **settings) as (one, _),
        processes.bridge(installation.router, ports[1], **settings) as (other, doomed),
        nginx(path_of("nginx", installation.server), tmp_path, *ports) as url,
        httpx.Client(base_url=url, timeout=30.0) as http,
    ):

        def buy(user: uuid.UUID) -> tuple[dict[str, str], bytes]:
            buyer = Buyer(user, KEYS.token("HS256", "authenticated", str(user)), http)
            answer = buyer.checkout(key=str(user))
            assert answer.status_code == 200, answer.text
            home = Bridge(url, one.settings, installation.home(user), http)
            desk = StripeDesk(stripe)
            return desk.deliver(desk.paid(home.attempt(answer.json()["session_id"])))

        def tell(number: int) -> int:
            if number == BUYERS:
                doomed.kill()
            headers, body = news[number % BUYERS]
            try:
                return http.post("/webhooks/stripe", headers=headers, content=body).status_code
            except httpx.RemoteProtocolError:  # killed in the middle of its answer: then a provider sends it again
                return http.post("/webhooks/stripe", headers=headers, content=body).status_code

        with ThreadPoolExecutor(4) as pool:
            news = list(pool.map(buy, users))
            assert list(pool.map(tell, range(BUYERS // 2))) == [200] * (BUYERS // 2)
            assert webhooks_of(one) > 0
            assert webhooks_of(other) > 0
            # what the killed one had in hand nginx hands to the other
            assert set(pool.map(tell, range(BUYERS // 2, 2 * BUYERS))) == {200}
        assert not doomed.alive
        assert [installation.home(user).entries(user) for user in users] == [[100]] * BUYERS
        assert installation.router.as_service().rpc("check_payment_invariants") == []
