"""What operators can count."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

__all__ = ["REGISTRY", "WEBHOOKS"]

REGISTRY = CollectorRegistry()
WEBHOOKS = Counter(
    "pgcheckout_webhooks",
    "Notifications by provider and by what became of them.",
    ["provider", "result"],
    registry=REGISTRY,
)
