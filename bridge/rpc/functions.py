"""The database's functions, with Python's types."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict, Unpack
from uuid import UUID

from bridge.errors import PgcheckoutError
from bridge.logs import about_session
from bridge.metrics import RPC_CALLS
from bridge.rpc.gathering import Gathering
from bridge.rpc.transport import Transport
from bridge.values import Applied, Attempt, Event, Outcome, Page

__all__ = [
    "Alert",
    "AttemptName",
    "Change",
    "Claim",
    "DeadLetter",
    "Due",
    "Failure",
    "Letter",
    "Moment",
    "Rpc",
    "SessionFilter",
]

NOBODY = UUID(int=0)


class AttemptName(TypedDict, total=False):
    """Any one of these names an attempt; ``provider`` goes with its own session id."""

    session_id: UUID | None
    reference: str | None
    provider: str | None
    provider_session_id: str | None


class Alert(NamedTuple):
    """An incident to tell the operator of. ``opened_at`` is ISO 8601."""

    number: int
    kind: str
    subject: str
    detail: str
    opened_at: str


class Change(NamedTuple):
    """What became of an incident: ``change`` is opened or closed."""

    change: str
    kind: str
    subject: str
    detail: str


class Claim(NamedTuple):
    """A request to work on under this claim, or (when it was done before) the answer that it got."""

    number: int | None
    response: Mapping[str, Any] | None


class Due(NamedTuple):
    """A page whose provider must be asked."""

    session_id: UUID
    provider: str
    reference: str


class Failure(NamedTuple):
    """A genuine webhook that was not applied. ``status``: failed (it comes again) or dead; ``error``: the reason."""

    provider: str
    event: Event
    status: str
    error: str
    received_at: str


class Letter(NamedTuple):
    """Something to tell a buyer (``email``) or, without an address, the operator.

    ``kind``: receipt, refund, reminder or review_alert. ``payload``: product_id, product_name, amount (minor units),
    currency, occurrence, invoice, and what belongs to the kind.
    """

    number: int
    session_id: UUID
    kind: str
    email: str | None
    payload: Mapping[str, Any]


class DeadLetter(NamedTuple):
    """A letter that was given up. ``email``: None for the operator's; ``finished_at`` is ISO 8601."""

    number: int
    session_id: UUID
    kind: str
    email: str | None
    error: str
    finished_at: str


class SessionFilter(TypedDict, total=False):
    """Which sessions are meant; what is left out does not matter."""

    status: str | None
    in_review: bool | None
    user_id: UUID | None
    provider: str | None
    since: datetime | None


class Moment(NamedTuple):
    """Something that happened to a session: ``kind`` and ``detail`` as in the SQL function, ``at`` in UTC."""

    at: datetime
    kind: str
    title: str
    detail: Mapping[str, Any]


class Rpc:
    """The database's functions, typed."""

    def __init__(self, transport: Transport, *, outcomes_per_call: int = 1) -> None:
        self._transport = transport
        self._outcomes = Gathering(self._apply_outcome, self._apply_outcomes, outcomes_per_call)

    async def _call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        began, result = time.perf_counter(), "interrupted"
        try:
            answer = await self._transport.call(function, arguments)
        except PgcheckoutError as error:
            result = error.reason
            raise
        else:
            result = "ok"
            return answer
        finally:
            RPC_CALLS.labels(function, result).observe(time.perf_counter() - began)

    async def get_or_create_checkout_session(self, user_id: UUID, arguments: Mapping[str, Any]) -> UUID:
        """The user's open session for a purchase, or a new one; ``arguments`` as in the SQL function."""
        answer = await self._call("get_or_create_checkout_session", {**arguments, "p_user_id": user_id})
        return UUID(str(answer))

    async def open_checkout_attempt(self, session_id: UUID, provider: str | None = None) -> Attempt:
        """Store an attempt before its page is opened, or get the one whose page is alive."""
        about_session(session_id)
        arguments = {"p_session_id": session_id, "p_provider": provider}
        return Attempt.from_json(await self._call("open_checkout_attempt", arguments))

    async def attach_checkout_attempt(self, number: int, page: Page) -> None:
        """Store the page that the provider opened."""
        arguments = {
            "p_attempt": number,
            "p_provider_session_id": page.provider_session_id,
            "p_checkout_url": page.url,
            "p_expires_at": page.expires_at,
        }
        await self._call("attach_checkout_attempt", arguments)

    async def abandon_checkout_attempt(self, number: int, error: PgcheckoutError) -> None:
        """Give up an attempt whose page could not be opened."""
        arguments = {"p_attempt": number, "p_error_code": error.reason, "p_error_message": error.message}
        await self._call("abandon_checkout_attempt", arguments)

    async def find_checkout_attempt(self, *, user_id: UUID | None = None, **name: Unpack[AttemptName]) -> Attempt:
        """The session and attempt to ask about; only the user's own when a user is given."""
        arguments = {
            "p_session_id": name.get("session_id"),
            "p_reference": name.get("reference"),
            "p_provider": name.get("provider"),
            "p_provider_session_id": name.get("provider_session_id"),
            "p_user_id": user_id,
        }
        attempt = Attempt.from_json(await self._call("find_checkout_attempt", arguments))
        about_session(attempt.session_id)
        return attempt

    async def apply_payment_outcome(self, outcome: Outcome, event: Event | None = None) -> Applied:
        """The one door by which money facts enter."""
        call = {"outcome": outcome.to_json(), "event": event.to_json() if event else None}
        applied = Applied.from_json(await self._outcomes.call(call))
        about_session(applied.session_id)
        return applied

    async def _apply_outcome(self, call: Mapping[str, Any]) -> Any:
        arguments = {"p_outcome": call["outcome"], "p_event": call["event"]}
        return await self._call("apply_payment_outcome", arguments)

    async def _apply_outcomes(self, calls: Sequence[Mapping[str, Any]]) -> Any:
        return await self._call("apply_payment_outcomes", {"p_calls": calls})

    async def record_webhook_failure(self, provider: str, event: Event, reason: str, *, comes_again: bool) -> None:
        """Keep a genuine webhook that could not be applied."""
        arguments = {
            "p_provider": provider,
            "p_event": event.to_json(),
            "p_error": reason,
            "p_retryable": comes_again,
        }
        await self._call("record_webhook_failure", arguments)

    async def list_webhook_failures(self, provider: str | None = None, event_id: str | None = None) -> list[Failure]:
        """Genuine webhooks that were not applied, oldest first, at most fifty."""
        arguments = {"p_provider": provider, "p_event_id": event_id}
        return [
            Failure(
                row["provider"], Event(id=row["event_id"], type=row["type"], payload=row["payload"]), row["status"],
                row["error"], row["received_at"],
            )
            for row in await self._call("list_webhook_failures", arguments)
        ]  # fmt: skip

    async def begin_idempotent_request(self, key: str, request_hash: str, user_id: UUID) -> Claim:
        """Claim a request that must have its effect once."""
        arguments = {"p_key": key, "p_request_hash": request_hash, "p_user_id": user_id}
        answer = await self._call("begin_idempotent_request", arguments)
        return Claim(answer.get("claim"), answer.get("response"))

    async def finish_idempotent_request(self, key: str, claim: Claim, response: Mapping[str, Any] | None) -> None:
        """Keep the answer for repeats; without one, the request had no effect and may be tried again."""
        arguments = {
            "p_key": key,
            "p_status": "failed" if response is None else "completed",
            "p_response": response,
            "p_claim": claim.number,
        }
        await self._call("finish_idempotent_request", arguments)

    async def claim_sessions_to_reconcile(self, limit: int) -> list[Due]:
        """Pages whose provider must be asked now, each given to one worker for five minutes."""
        rows = await self._call("claim_sessions_to_reconcile", {"p_limit": limit})
        return [Due(UUID(str(row["session_id"])), row["provider"], row["reference"]) for row in rows]

    async def list_unsettled_pages(
        self, since: datetime | None, provider: str | None, after: UUID | None, limit: int
    ) -> list[Due]:
        """Pages of unpaid sessions made since then, or (without) those that are due now; ``after`` a session's id."""
        arguments = {"p_since": since, "p_provider": provider, "p_after": after, "p_limit": limit}
        rows = await self._call("list_unsettled_pages", arguments)
        return [Due(UUID(str(row["session_id"])), row["provider"], row["reference"]) for row in rows]

    async def finish_reconcile(self, session_id: UUID, *, asked: bool, detail: str | None) -> None:
        """End a claim: the provider answered, or (with the reason) it could not be asked."""
        result = "asked" if asked else "failed"
        await self._call("finish_reconcile", {"p_session_id": session_id, "p_result": result, "p_detail": detail})

    async def claim_notifications(self, limit: int, kinds: list[str] | None = None) -> list[Letter]:
        """Letters that are due (all kinds, or these), each given to one worker for five minutes."""
        rows = await self._call("claim_notifications", {"p_limit": limit, "p_kinds": kinds})
        return [
            Letter(row["id"], UUID(str(row["session_id"])), row["kind"], row["email"], row["payload"]) for row in rows
        ]

    async def finish_notification(self, number: int, error: str | None) -> None:
        """End a claim: sent, or (with an error) to be tried again later."""
        await self._call("finish_notification", {"p_id": number, "p_error": error})

    async def report_trouble(self, kind: str, provider: str, count: int) -> None:
        """Add to what could not be believed (``signature_failures``) or asked (``failed_verifications``)."""
        await self._call("report_trouble", {"p_kind": kind, "p_subject": provider, "p_count": count})

    async def watch_payments(self) -> list[Change]:
        """Have alerts opened and closed; what was."""
        return [Change(**row) for row in await self._call("watch_payments", {})]

    async def audit_payments(self) -> list[Change]:
        """The same after checking all guarantees, which reads everything."""
        return [Change(**row) for row in await self._call("audit_payments", {})]

    async def claim_alerts(self, limit: int) -> list[Alert]:
        """Alerts of which the operator has not been told, each given to one process for five minutes."""
        return [
            Alert(row["id"], row["kind"], row["subject"], row["detail"], row["opened_at"])
            for row in await self._call("claim_alerts", {"p_limit": limit})
        ]

    async def finish_alert(self, number: int, error: str | None) -> None:
        """End a claim: told, or (with an error) to be told again later."""
        await self._call("finish_alert", {"p_id": number, "p_error": error})

    async def payment_health(self) -> Mapping[str, Any]:
        """What waits, and for how long: as in the SQL function."""
        health: Mapping[str, Any] = await self._call("payment_health", {})
        return health

    async def payment_report(self, days: int) -> Mapping[str, Any]:
        """Figures of the sessions made in the last days, amounts in minor units: as in the SQL function."""
        report: Mapping[str, Any] = await self._call("payment_report", {"p_days": days})
        return report

    async def list_checkout_sessions(
        self, before: UUID | None, limit: int, **only: Unpack[SessionFilter]
    ) -> list[Mapping[str, Any]]:
        """Sessions, newest first: rows as of the SQL function, amounts in minor units. ``before``: a session's id."""
        arguments = {f"p_{name}": value for name, value in only.items()}
        return list(await self._call("list_checkout_sessions", {**arguments, "p_before": before, "p_limit": limit}))

    async def checkout_session_story(self, session_id: UUID) -> list[Moment]:
        """All that happened to a session, in order of time. Raises SessionNotFound."""
        return [
            Moment(datetime.fromisoformat(row["at"]).astimezone(UTC), row["kind"], row["title"], row["detail"])
            for row in await self._call("checkout_session_story", {"p_session_id": session_id})
        ]

    async def add_session_note(self, session_id: UUID, note: str) -> None:
        """Write into a session's audit trail what an operator did or knows. Raises SessionNotFound, InvalidInput."""
        about_session(session_id)
        await self._call("add_session_note", {"p_session_id": session_id, "p_note": note})

    async def close_review(self, session_id: UUID, note: str, reasons: str) -> None:
        """End the review of a session with these reasons. Raises SessionNotFound, ReviewChanged, InvalidInput."""
        about_session(session_id)
        await self._call("close_review", {"p_session_id": session_id, "p_note": note, "p_reasons": reasons})

    async def close_webhook_failure(self, provider: str, event_id: str, note: str) -> None:
        """A dead webhook needs nothing more. Raises DeadLetterUnknown, InvalidInput."""
        arguments = {"p_provider": provider, "p_event_id": event_id, "p_note": note}
        await self._call("close_webhook_failure", arguments)

    async def list_dead_notifications(self) -> list[DeadLetter]:
        """Letters that were given up, oldest first, at most fifty."""
        return [
            DeadLetter(
                row["id"], UUID(str(row["session_id"])), row["kind"], row["email"], row["error"], row["finished_at"]
            )
            for row in await self._call("list_dead_notifications", {})
        ]

    async def retry_notification(self, number: int) -> None:
        """Send a letter again that was given up. Raises DeadLetterUnknown."""
        await self._call("retry_notification", {"p_id": number})

    async def retry_fulfilment(self, session_id: UUID) -> Applied:
        """Try again to give what was paid for, or to take back what was refunded. Raises NothingToRetry."""
        about_session(session_id)
        return Applied.from_json(await self._call("retry_fulfilment", {"p_session_id": session_id}))

    async def expire_old_checkout_sessions(self) -> int:
        """End the sessions whose time is over; how many."""
        return int(await self._call("expire_old_checkout_sessions", {}))

    async def enqueue_payment_reminders(self) -> int:
        """Queue the reminders that are due; how many."""
        return int(await self._call("enqueue_payment_reminders", {}))

    async def number_payment_invoices(self) -> int:
        """Number the invoices that were left without; how many."""
        return int(await self._call("number_payment_invoices", {}))

    async def clean_up(self) -> int:
        """Delete a batch of what payments.settings wants kept no longer; how many rows. None: nothing is left."""
        deleted = await self._call("purge_old_payment_data", {})
        return sum(deleted.values())

    async def record_heartbeat(self, name: str) -> None:
        """Tell payment_health that a worker is at work."""
        await self._call("record_heartbeat", {"p_name": name})

    async def forget_heartbeat(self, name: str) -> None:
        """Tell that a worker ends in good order: nobody needs to miss it."""
        await self._call("forget_heartbeat", {"p_name": name})

    def listen(self) -> AsyncGenerator[str, None]:
        """The jobs for which the database wakes workers; before them, once it listens, an empty name.

        Raises NotSupported where that is impossible, DatabaseUnavailable when the connection is cut.
        """
        return self._transport.listen()

    async def check(self) -> None:
        """Prove that the database answers, is migrated, lets the bridge in and can be written."""
        await self._call("get_latest_checkout_session", {"p_user_id": NOBODY})
        # there is none of this name: a deletion of nothing, which a read-only database refuses all the same
        await self.forget_heartbeat("nobody")

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()
