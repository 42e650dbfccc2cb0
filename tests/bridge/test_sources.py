"""Where a webhook comes from, behind proxies that are trusted and proxies that are not."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import httpx
import pytest

from bridge.api.sources import client_address
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

PAYSTACK, STRANGER = "52.31.139.75", "203.0.114.9"
PROXIES = [ip_network(network) for network in ("10.0.0.0/8", "2001:db8:1::/48")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (STRANGER, "", STRANGER),
        (STRANGER, PAYSTACK, STRANGER),  # whoever is not a proxy of ours may say what he likes
        ("10.0.0.1", PAYSTACK, PAYSTACK),
        ("10.0.0.1", f"{PAYSTACK}, {STRANGER}", STRANGER),  # the last one is what our proxy has seen
        ("10.0.0.1", f"{PAYSTACK}, 10.0.0.2", PAYSTACK),  # two proxies
        ("10.0.0.1", f" {STRANGER} ,10.9.9.9", STRANGER),
        ("::ffff:10.0.0.1", f"::ffff:{PAYSTACK}", PAYSTACK),
        ("2001:db8:1::5", "2606:4700::1", "2606:4700::1"),
        ("10.0.0.1", "", None),  # the proxy does not tell
        ("10.0.0.1", "unknown", None),
        ("10.0.0.1", f"{PAYSTACK}, unknown", None),
        ("192.168.0.1", PAYSTACK, None),  # a proxy that nobody named
        ("127.0.0.1", "", None),
        ("", PAYSTACK, None),
    ],
)
def test_the_last_address_that_no_trusted_proxy_added_counts(peer: str, forwarded: str, expected: str | None) -> None:
    found = client_address(peer, forwarded, PROXIES)
    assert found == (ip_address(expected) if expected else None)


def knock(bridge: Bridge, forwarded: str | None) -> httpx.Response:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    return bridge.http.post("/webhooks/paystack", content=b"{}", headers=headers)


@pytest.fixture
def behind_a_proxy(db: Database) -> Iterator[Bridge]:
    with running_bridge(db, paystack_secret_keys="sk_test_x", trusted_proxies="127.0.0.1,10.0.0.0/8") as bridge:
        yield bridge


def test_a_webhook_from_elsewhere_is_refused(behind_a_proxy: Bridge) -> None:
    refused = knock(behind_a_proxy, STRANGER)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (403, "source_refused")
    assert STRANGER in refused.json()["error"]["message"]
    assert "PGCHECKOUT_TRUSTED_PROXIES" in refused.json()["error"]["hint"]
    assert behind_a_proxy.counted("paystack", "source_refused") > 0


@pytest.mark.parametrize("forwarded", [PAYSTACK, "52.49.173.169", "52.214.14.220", f"{STRANGER}, {PAYSTACK}", None])
def test_its_own_addresses_and_unknown_ones_go_on_to_the_signature(
    behind_a_proxy: Bridge, forwarded: str | None
) -> None:
    refused = knock(behind_a_proxy, forwarded)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (400, "signature_invalid")


@pytest.mark.parametrize(
    "settings", [{"trusted_proxies": "127.0.0.1", "paystack_source_ips": ""}, {"trusted_proxies": ""}]
)
def test_the_list_can_be_switched_off_and_says_nothing_behind_an_unnamed_proxy(
    db: Database, settings: dict[str, Any]
) -> None:
    with running_bridge(db, paystack_secret_keys="sk_test_x", **settings) as bridge:
        assert knock(bridge, STRANGER).json()["error"]["reason"] == "signature_invalid"


def test_a_header_that_comes_twice_is_read_as_one(behind_a_proxy: Bridge) -> None:
    headers = [("X-Forwarded-For", PAYSTACK), ("X-Forwarded-For", STRANGER)]
    answer = behind_a_proxy.http.post("/webhooks/paystack", content=b"{}", headers=headers)
    assert answer.json()["error"]["reason"] == "source_refused"


def test_a_provider_without_a_list_is_heard_from_anywhere(behind_a_proxy: Bridge) -> None:
    answer = behind_a_proxy.http.post("/webhooks/sandbox", content=b"{}", headers={"X-Forwarded-For": STRANGER})
    assert answer.json()["error"]["reason"] == "signature_invalid"
