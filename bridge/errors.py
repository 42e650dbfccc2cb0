"""Every error that the bridge raises on purpose, as one tree::

    PgcheckoutError
    ├── SetupError                  the installation is incomplete; the message says what to do
    ├── SignatureInvalid            a notification that its provider did not sign
    ├── SourceRefused               a notification from an address that is not its provider's
    ├── NotSupported                a provider has no such thing
    ├── ProviderError
    │   ├── ProviderUnavailable     try again later
    │   ├── ProviderRefused         trying again changes nothing
    │   └── RefundInDoubt           nobody knows whether the money went back
    ├── MailRefused                 a letter could not be handed over
    ├── DatabaseUnavailable         try again later
    └── Refused                     the rules refuse; one class per reason of docs/errors.md

Source of the reasons: ``errcode = 'PTnnn', detail = 'reason'`` in ``sql/``.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "DatabaseUnavailable",
    "MailRefused",
    "NotSignedIn",
    "NotSupported",
    "NotYourSession",
    "NothingToRefund",
    "PaymentReused",
    "PgcheckoutError",
    "ProviderError",
    "ProviderRefused",
    "ProviderUnavailable",
    "RefundInDoubt",
    "Refused",
    "SessionNotFound",
    "SetupError",
    "SignatureInvalid",
    "SourceRefused",
]


class PgcheckoutError(Exception):
    """Base of all errors here. ``reason`` is stable and machine-readable, ``status`` the HTTP status it deserves."""

    reason: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SetupError(PgcheckoutError):
    """The installation is incomplete or contradictory."""

    reason = "setup_incomplete"


class SignatureInvalid(PgcheckoutError):
    """The notification does not come from the provider, or was altered, or is too old."""

    reason = "signature_invalid"
    status = 400


class SourceRefused(PgcheckoutError):
    """The notification comes from an address that is not its provider's."""

    reason = "source_refused"
    status = 403


class NotSupported(PgcheckoutError):
    """The provider has no such operation."""

    reason = "not_supported"
    status = 404


class ProviderError(PgcheckoutError):
    """The provider did not do what it was asked."""


class ProviderUnavailable(ProviderError):
    """The provider could not be reached, is overloaded or failed; the same request may succeed later."""

    reason = "provider_unavailable"
    status = 502
    retryable = True


class ProviderRefused(ProviderError):
    """The provider understood and refused; the same request will be refused again."""

    reason = "provider_refused"
    status = 502


class RefundInDoubt(ProviderError):
    """A refund was asked for, the answer was lost, and the provider has no way to ask what became of it."""

    reason = "refund_in_doubt"
    status = 502


class MailRefused(PgcheckoutError):
    """A letter could not be handed over; it stays in the outbox."""

    reason = "mail_refused"
    status = 502
    retryable = True


class DatabaseUnavailable(PgcheckoutError):
    """The database could not be reached or is overloaded; the same call may succeed later."""

    reason = "database_unavailable"
    status = 503
    retryable = True


class Refused(PgcheckoutError):
    """The rules refuse the call. Subclasses carry the reason; an unknown reason keeps this class."""

    status = 409
    _by_reason: ClassVar[dict[str, type[Refused]]] = {}

    def __init_subclass__(cls) -> None:
        cls._by_reason[cls.reason] = cls

    @classmethod
    def for_reason(cls, reason: str, message: str, hint: str = "") -> Refused:
        """The exception for a reason that the database gave."""
        return cls._by_reason.get(reason, Refused)(message, hint)

    @classmethod
    def reasons(cls) -> dict[str, type[Refused]]:
        """All known reasons and their classes."""
        return dict(cls._by_reason)


class InvalidRequest(Refused):
    reason = "invalid_request"
    status = 422


class NotSignedIn(Refused):
    reason = "not_signed_in"
    status = 401


class NotYourSession(Refused):
    reason = "not_your_session"
    status = 403


class ServiceOnly(Refused):
    reason = "service_only"
    status = 403


class UserRequired(Refused):
    reason = "user_required"
    status = 422


class UserUnknown(Refused):
    reason = "user_unknown"
    status = 422


class ProductUnknown(Refused):
    reason = "product_unknown"
    status = 404


class CurrencyUnavailable(Refused):
    reason = "currency_unavailable"
    status = 422


class CouponUnknown(Refused):
    reason = "coupon_unknown"
    status = 422


class CouponExpired(Refused):
    reason = "coupon_expired"
    status = 422


class CouponNotApplicable(Refused):
    reason = "coupon_not_applicable"
    status = 422


class CouponExhausted(Refused):
    reason = "coupon_exhausted"


class PriceMismatch(Refused):
    reason = "price_mismatch"
    status = 422


class ProviderUnknown(Refused):
    reason = "provider_unknown"
    status = 422


class InvalidInput(Refused):
    reason = "invalid_input"
    status = 422


class IdempotencyConflict(Refused):
    reason = "idempotency_conflict"


class RequestInProgress(Refused):
    reason = "request_in_progress"
    retryable = True


class IdempotencyKeyUnknown(Refused):
    reason = "idempotency_key_unknown"
    status = 404


class InsufficientCredits(Refused):
    reason = "insufficient_credits"
    status = 402


class GroupUnknown(Refused):
    reason = "group_unknown"
    status = 404


class GroupProductMismatch(Refused):
    reason = "group_product_mismatch"
    status = 422


class GroupFull(Refused):
    reason = "group_full"


class AlreadyMember(Refused):
    reason = "already_member"


class NotAMember(Refused):
    reason = "not_a_member"


class ContributionPaid(Refused):
    reason = "contribution_paid"


class SessionNotFound(Refused):
    """Retryable: a provider's notification can overtake the commit that stores what it speaks of."""

    reason = "session_not_found"
    status = 404
    retryable = True


class SessionNotPending(Refused):
    reason = "session_not_pending"


class SessionExpired(Refused):
    reason = "session_expired"
    status = 410


class IllegalTransition(Refused):
    reason = "illegal_transition"


class AppendOnly(Refused):
    reason = "append_only"


class AttemptNotFound(Refused):
    reason = "attempt_not_found"
    status = 404


class AttemptAttached(Refused):
    reason = "attempt_attached"


class OutcomeInvalid(Refused):
    reason = "outcome_invalid"
    status = 422


class EventInvalid(Refused):
    reason = "event_invalid"
    status = 422


class PaymentIdRequired(Refused):
    reason = "payment_id_required"
    status = 422


class PaymentReused(Refused):
    reason = "payment_reused"


class NothingToRetry(Refused):
    reason = "nothing_to_retry"


class ReviewChanged(Refused):
    reason = "review_changed"


class DeadLetterUnknown(Refused):
    reason = "dead_letter_unknown"
    status = 404


class TooManyRequests(Refused):
    """``hint`` carries ``retry_after=`` and the seconds to wait."""

    reason = "too_many_requests"
    status = 429
    retryable = True


class NothingToRefund(Refused):
    reason = "nothing_to_refund"


class NotificationNotClaimed(Refused):
    reason = "notification_not_claimed"
    status = 404


class InvariantBroken(Refused):
    reason = "invariant_broken"
    status = 500


class TryAgain(Refused):
    reason = "try_again"
    status = 503
    retryable = True


class WrongMode(Refused):
    """A test-mode notification reached a live installation, or the other way round."""

    reason = "wrong_mode"
