"""Signatures of sandbox webhooks: the Standard Webhooks scheme (standardwebhooks.com), symmetric ``v1``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping

from bridge.errors import SignatureInvalid

__all__ = ["sign", "verify"]

TOLERANCE_SECONDS = 300


def sign(secret: str, event_id: str, body: bytes, *, now: float | None = None) -> dict[str, str]:
    """The three headers of a delivery."""
    timestamp = str(int(time.time() if now is None else now))
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{_digest(secret, event_id, timestamp, body)}",
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> None:
    """Raises SignatureInvalid unless one of the signatures is right and the delivery is recent."""
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        raise SignatureInvalid("webhook-timestamp is missing or malformed.")
    expected = f"v1,{_digest(secret, event_id, timestamp, body)}".encode()
    valid = False
    for candidate in headers.get("webhook-signature", "").split(" "):
        valid |= hmac.compare_digest(expected, candidate.encode())
    if not valid:
        raise SignatureInvalid("webhook-signature does not match: check PGCHECKOUT_SANDBOX_SECRET.")
    if abs(int(timestamp) - (time.time() if now is None else now)) > TOLERANCE_SECONDS:
        raise SignatureInvalid("webhook-timestamp is too far from this machine's clock.")


def _digest(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    message = f"{event_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()
