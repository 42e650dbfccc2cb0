"""What operators can count."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

__all__ = ["LETTERS", "RECONCILED", "REGISTRY", "WEBHOOKS"]

REGISTRY = CollectorRegistry()
LETTERS = Counter(
    "pgcheckout_letters", "Letters by kind and by what became of them.", ["kind", "result"], registry=REGISTRY
)
RECONCILED = Counter(
    "pgcheckout_reconciled",
    "Sessions whose provider was asked again, by provider and by what became of them.",
    ["provider", "result"],
    registry=REGISTRY,
)
WEBHOOKS = Counter(
    "pgcheckout_webhooks",
    "Notifications by provider and by what became of them.",
    ["provider", "result"],
    registry=REGISTRY,
)
