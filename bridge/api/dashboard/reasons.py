"""What to do about each reason for review. docs/states.md says the same, and a test holds them together."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["REASONS", "advice"]

REASONS = {
    "duplicate_payment": (
        "a second, different payment came for a paid session",
        "give the second one back in its provider's portal; pgcheckout refund gives back the first and takes the goods",
    ),
    "amount_mismatch": (
        "less money came than was due",
        "refund it, or settle with the buyer",
    ),
    "currency_mismatch": (
        "money came in another currency",
        "refund it, or settle with the buyer",
    ),
    "paid_twice": (
        "late money came for an old session, and a newer one of the same purchase is paid too; both were fulfilled",
        "ask the buyer, refund one",
    ),
    "overpaid": (
        "more came than was due; the session was fulfilled",
        "refund the difference",
    ),
    "fulfilment_failed": (
        "paid, but the handler refused",
        "remove the cause, then retry_fulfilment",
    ),
    "second_payment_processing": (
        "a delayed payment began on an old session while another one is under way",
        "wait: both are honoured, and flagged when they arrive",
    ),
    "reversal_failed": (
        "money went back, but the handler could not take the purchase back (or restore it)",
        "remove the cause, then retry_fulfilment",
    ),
    "refund_exceeds_payment": (
        "a refund of more than was paid was reported; it was refused",
        "look at the provider",
    ),
    "refund_conflict": (
        "a refund's id came again with another amount or session",
        "look at the provider",
    ),
    "dispute_reported": (
        "the buyer disputes the payment, or has won the dispute",
        "answer the provider",
    ),
    "reconcile_gave_up": (
        "the provider could not be asked, or had no final word, until the session was over",
        "pgcheckout reconcile --since 14d asks again; else look at the provider",
    ),
}


def advice(review_reason: str | None) -> Iterator[tuple[str, str, str]]:
    """Reason, what happened, what to do, for each of a session's reasons."""
    for reason in filter(None, (review_reason or "").split(", ")):
        what, remedy = REASONS.get(reason, ("", "look at the session's story"))
        yield reason, what, remedy
