"""Where a request comes from, and whether a provider's webhooks come from there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from fastapi import Request
from starlette.types import Scope

from bridge.errors import SourceRefused
from bridge.providers import Provider
from bridge.settings import Settings

__all__ = ["address_of", "check_source", "client_address"]

Address = IPv4Address | IPv6Address

_LONGEST_ADDRESS = 64  # what is longer is none, cut off or not


def client_address(peer: str, forwarded: str, trusted: Iterable[Any]) -> Address | None:
    """The address that a request comes from: the last one in ``X-Forwarded-For`` that no trusted proxy added.

    None when it cannot be known: no address at all, or a private one that is no trusted proxy (there is a proxy that
    nobody named).
    """
    proxies = tuple(trusted)
    for said in [peer, *reversed(forwarded.split(","))]:
        address = _read(said.strip()[:_LONGEST_ADDRESS])
        if address is None:
            return None
        if not any(address in network for network in proxies):
            return address if address.is_global else None
    return None


_network = lru_cache(64)(ip_network)  # reading three takes as long as checking a signature


@lru_cache(1024)
def _read(said: str) -> Address | None:
    try:
        address = ip_address(said)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def address_of(scope: Scope, trusted: Iterable[Any]) -> Address | None:
    """The address that a request comes from, as client_address finds it."""
    peer = scope["client"][0] if scope.get("client") else ""
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return client_address(peer, forwarded.decode("latin-1"), trusted)


def check_source(request: Request, settings: Settings, adapter: Provider) -> None:
    """Refuse a webhook from elsewhere, where the provider says where they come from. Raises SourceRefused.

    An address that cannot be known refuses nothing: the signature decides alone then.
    """
    allowed = [_network(source) for source in adapter.source_addresses]
    if not allowed:
        return
    address = address_of(request.scope, settings.trusted_proxies)
    if address is not None and not any(address in network for network in allowed):
        raise SourceRefused(
            f"{adapter.title} does not send webhooks from {address}.",
            "Name your proxies in PGCHECKOUT_TRUSTED_PROXIES if the request came through one.",
        )
