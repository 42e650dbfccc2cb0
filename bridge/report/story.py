"""What is said of a session and its moments, wherever it is shown. Addresses of buyers are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bridge.money import display_amount
from bridge.report.figures import age
from bridge.report.text import without_addresses
from bridge.rpc import Moment

__all__ = ["after", "amount_of", "details_of", "facts_of", "time_of"]

# what is said of a moment besides its title and amount
_FIELDS = {
    "attempt": ("status", "reference", "provider_session_id", "error_code", "error_message"),
    "state": ("source", "reason", "detail"),
    "webhook": ("status", "event_id", "error", "deliveries"),
    "capture": ("provider_payment_id",),
    "refund": ("provider_refund_id", "reason"),
    "notification": ("email", "occurrence", "tries", "error"),
    "alert": ("detail", "closed_at"),
}
_TIMES = ("closed_at", "completed_at", "expires_at")
_UNREMARKABLE = (None, "", 0, 1)  # one delivery, one try
_FACTS = (
    "status", "fulfilment_status", "review_reason", "email", "user_id", "product_id", "subject", "provider",
    "coupon_id", "error_code", "expires_at", "completed_at",
)  # fmt: skip


def facts_of(session: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of what a session is now, from the detail of its moment of kind ``session``."""
    for name in _FACTS:
        if name in session:
            yield name.replace("_", " "), _shown(name, session[name])
    yield "amount", ", ".join(_amounts(session))


def _amounts(session: Mapping[str, Any]) -> Iterator[str]:
    currency = session["currency"]
    yield display_amount(session["amount"], currency)
    if session["discount_amount"]:
        yield f"{display_amount(session['discount_amount'], currency)} less than it costs"
    if session["refunded_amount"]:
        yield f"{display_amount(session['refunded_amount'], currency)} given back"


def amount_of(moment: Moment) -> str:
    """The money or credits that a moment is about; empty when it is about neither."""
    if "currency" in moment.detail:
        return display_amount(moment.detail["amount"], moment.detail["currency"])
    return f"{moment.detail['amount']:+}" if moment.kind == "credits" else ""


def details_of(moment: Moment) -> list[str]:
    """What else is worth saying."""
    detail = moment.detail
    return [
        f"{name.replace('_', ' ')} {_shown(name, detail[name])}"
        for name in _FIELDS.get(moment.kind, ())
        if detail.get(name) not in _UNREMARKABLE and str(detail[name]) not in moment.title.split()
    ]


def after(gap: timedelta) -> str:
    """How long after the moment before; empty for no time at all."""
    return f"+{age(gap.total_seconds())}" if gap >= timedelta(seconds=1) else ""


def time_of(text: str) -> datetime:
    """A time of the database, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _shown(name: str, value: object) -> str:
    """A field for people; times without fractions. What strangers wrote may look like anything."""
    return f"{time_of(str(value)):%Y-%m-%d %H:%M:%S}" if name in _TIMES else without_addresses(str(value))
