"""What operators can count. docs/metrics.md says what each means, and a test holds that table to this module.

Times are in seconds. Each process counts what it does itself; the figures of :func:`figures` are the database's, the
same from every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = [
    "ALERTS",
    "HTTP_REQUESTS",
    "LETTERS",
    "RECONCILED",
    "REGISTRY",
    "REPAIRS",
    "RPC_CALLS",
    "SIGNATURE_FAILURES",
    "VERIFICATIONS",
    "WEBHOOKS",
    "exposition",
    "figures",
]

_INSIDE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# providers are far away, and asked up to three times within 20 seconds
_OUTSIDE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)

REGISTRY = CollectorRegistry()
ALERTS = Counter(
    "pgcheckout_alerts",
    "Incidents that the operator was told of, by kind and by how that went.",
    ["kind", "result"],
    registry=REGISTRY,
)
HTTP_REQUESTS = Histogram(
    "pgcheckout_http_request_seconds",
    "Time to answer, by route and status.",
    ["route", "status"],
    buckets=_OUTSIDE,
    registry=REGISTRY,
)
LETTERS = Counter(
    "pgcheckout_letters", "Letters by kind and by what became of them.", ["kind", "result"], registry=REGISTRY
)
RECONCILED = Counter(
    "pgcheckout_reconciled",
    "Sessions whose provider was asked again, by provider and by what became of them.",
    ["provider", "result"],
    registry=REGISTRY,
)
REPAIRS = Counter(
    "pgcheckout_repairs",
    "Paid sessions that nobody had told us of: found by asking their provider again.",
    ["provider"],
    registry=REGISTRY,
)
RPC_CALLS = Histogram(
    "pgcheckout_rpc_seconds",
    "Time of the database's functions, repeats after collisions included, by function and result.",
    ["function", "result"],
    buckets=_INSIDE,
    registry=REGISTRY,
)
SIGNATURE_FAILURES = Counter(
    "pgcheckout_signature_failures",
    "Notifications that their provider did not sign or send, by provider.",
    ["provider"],
    registry=REGISTRY,
)
VERIFICATIONS = Histogram(
    "pgcheckout_verification_seconds",
    "Time in which providers answered about a payment, by provider and result.",
    ["provider", "result"],
    buckets=_OUTSIDE,
    registry=REGISTRY,
)
WEBHOOKS = Counter(
    "pgcheckout_webhooks",
    "Notifications by provider and by what became of them.",
    ["provider", "result"],
    registry=REGISTRY,
)


def exposition(health: Mapping[str, Any] | None) -> bytes:
    """Prometheus' text format: what this process has counted, and the figures of the database if it said them."""
    current = CollectorRegistry()
    current.register(_Once(figures(health)))
    return generate_latest(REGISTRY) + generate_latest(current)


class _Once(Collector):
    """Metrics of this scrape only."""

    def __init__(self, metrics: Iterator[GaugeMetricFamily]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[GaugeMetricFamily]:
        return self._metrics


def figures(health: Mapping[str, Any] | None) -> Iterator[GaugeMetricFamily]:
    """The answer of ``payment_health()`` as metrics; without one, only that the database did not answer."""
    yield GaugeMetricFamily("pgcheckout_database_up", "Whether the database answered.", value=float(health is not None))
    if health is None:
        return
    sessions, reviews, webhooks, letters = (
        health[area] for area in ("sessions", "reviews", "webhooks", "notifications")
    )
    yield _gauge(
        "open_sessions", "Sessions that are not settled.", "status", _chosen(sessions, "pending", "processing")
    )
    yield _gauge("overdue_sessions", "Open sessions whose time was over two hours ago.", "", {"": sessions["overdue"]})
    yield _gauge("unfulfilled_sessions", "Paid, and not delivered.", "", {"": reviews["paid_but_unfulfilled"]})
    depths = {
        "invoices": health["invoices"]["unnumbered"],
        "letters": letters["due"],
        "reconcile": health["reconcile"]["due"],
        "reviews": reviews["open"],
        "webhooks": webhooks["failed"] + webhooks["dead"],
    }
    ages = {
        "invoices": health["invoices"], "letters": letters, "reconcile": health["reconcile"], "reviews": reviews,
        "webhooks": webhooks,
    }  # fmt: skip
    yield _gauge("queue_depth", "What waits, by queue.", "queue", depths)
    yield _gauge(
        "queue_age_seconds", "How long the oldest of a queue has waited.", "queue",
        {queue: area["oldest_seconds"] or 0 for queue, area in ages.items()},
    )  # fmt: skip
    yield _gauge(
        "dead", "What nobody will try again.", "queue", {"letters": letters["dead"], "webhooks": webhooks["dead"]}
    )
    yield _gauge("heartbeat_age_seconds", "When each worker was last seen.", "worker", health["heartbeats"])
    yield _gauge("open_alerts", "Incidents that last, by kind.", "kind", health["alerts"])


def _chosen(area: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: area[name] for name in names}


def _gauge(name: str, meaning: str, label: str, values: Mapping[str, Any]) -> GaugeMetricFamily:
    metric = GaugeMetricFamily(f"pgcheckout_{name}", meaning, labels=[label] if label else [])
    for value in values:
        metric.add_metric([value] if label else [], float(values[value]))
    return metric
