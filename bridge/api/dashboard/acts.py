"""What an operator does: each act is a form, names its operator in the audit trail, and ends on a page that says what
became of it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from bridge.api.context import Context, FromContext
from bridge.api.dashboard.access import HOME, Flash, Writer, flash, local
from bridge.api.dashboard.html import PageRoute
from bridge.errors import PgcheckoutError
from bridge.money import minor_units
from bridge.rpc import Failure

__all__ = ["router"]

router = APIRouter(prefix=HOME, route_class=PageRoute, include_in_schema=False)

_DEAD_LETTERS = f"{HOME}/dead-letters"

Note = Annotated[str, Form(max_length=400)]
Back = Annotated[str, Form(max_length=500)]


@router.post("/sessions/{session_id}/retry")
async def retry(session_id: UUID, context: FromContext, visit: Writer, back: Back = "") -> Response:
    """Deliver again, or take back again."""
    await context.rpc.add_session_note(session_id, f"{visit.name}: retry fulfilment")
    done = await context.rpc.retry_fulfilment(session_id)
    if done.fulfilment_status == "failed":
        return _tell_of(
            context, session_id, back, Flash("failed", "Tried again, and refused again: see the last lines below.")
        )
    return _tell_of(context, session_id, back, Flash("done", f"Tried again: {done.fulfilment_status}."))


@router.post("/sessions/{session_id}/refund")
async def refund(
    *,
    session_id: UUID,
    context: FromContext,
    visit: Writer,
    amount: Annotated[str, Form(max_length=30)],
    key: Annotated[str, Form(min_length=16, max_length=64)],
    note: Note = "",
    back: Back = "",
) -> Response:
    """Give money back through the provider. ``amount`` in major units; the same ``key`` gives it back once."""
    attempt = await context.rpc.find_checkout_attempt(session_id=session_id)
    wanted = minor_units(amount, attempt.currency)
    await context.rpc.add_session_note(session_id, _signed(visit.name, f"refund {amount} {attempt.currency}", note))
    done = await context.refunds.give(session_id, amount=wanted, reason=note or None, key=f"dashboard {key}")
    return _tell_of(context, session_id, back, Flash("done" if done.status else "failed", done.message))


@router.post("/sessions/{session_id}/dismiss")
async def dismiss(
    *,
    session_id: UUID,
    context: FromContext,
    visit: Writer,
    reasons: Annotated[str, Form(max_length=1000)],
    note: Annotated[str, Form(min_length=1, max_length=400)],
    back: Back = "",
) -> Response:
    """Close a review of which nothing is left to do."""
    await context.rpc.close_review(session_id, f"{visit.name}: {note}", reasons)
    return _tell_of(context, session_id, back, Flash("done", "The review is closed."))


@router.post("/sessions/{session_id}/note")
async def leave_note(
    session_id: UUID, context: FromContext, visit: Writer, note: Annotated[str, Form(min_length=1, max_length=400)]
) -> Response:
    """Write into the audit trail."""
    await context.rpc.add_session_note(session_id, f"{visit.name}: {note}")
    return _tell_of(context, session_id, "", Flash("done", "The note is in the session's story."))


@router.post("/sessions/{session_id}/ask")
async def ask(session_id: UUID, context: FromContext, visit: Writer, back: Back = "") -> Response:
    """Ask the provider now."""
    await context.rpc.add_session_note(session_id, f"{visit.name}: ask the provider")
    known = await context.checkout.verify(None, "admin", session_id=session_id)
    if not known.verified:
        return _tell_of(context, session_id, back, Flash("failed", "The provider cannot be asked about this session."))
    return _tell_of(context, session_id, back, Flash("done", f"The provider was asked: the session is {known.status}."))


@router.post("/dead-letters/replay")
async def replay(
    context: FromContext,
    visit: Writer,
    provider: Annotated[str | None, Form(max_length=64)] = None,
    event: Annotated[str | None, Form(max_length=300)] = None,
) -> Response:
    """Handle one webhook again, or all that are listed."""
    failures = await context.rpc.list_webhook_failures(provider, event)
    said = [await _replayed(context, visit.name, failure) for failure in failures]
    applied = said.count("")
    text = f"{applied} of {len(said)} applied. " + " ".join(filter(None, said[:5]))
    return _tell(context, _DEAD_LETTERS, Flash("done" if applied == len(said) else "failed", text.strip()))


@router.post("/dead-letters/close")
async def close_webhook(
    context: FromContext,
    visit: Writer,
    provider: Annotated[str, Form(max_length=64)],
    event: Annotated[str, Form(max_length=300)],
    note: Annotated[str, Form(min_length=1, max_length=400)],
) -> Response:
    """A dead webhook of which nothing is left to do."""
    await context.rpc.close_webhook_failure(provider, event, f"{visit.name}: {note}")
    return _tell(context, _DEAD_LETTERS, Flash("done", f"{event} waits no more."))


@router.post("/dead-letters/send")
async def send_letter(context: FromContext, _visit: Writer, number: Annotated[int, Form(ge=1)]) -> Response:
    """Send a letter again that was given up."""
    await context.rpc.retry_notification(number)
    return _tell(context, _DEAD_LETTERS, Flash("done", "The letter is queued again."))


async def _replayed(context: Context, name: str, failure: Failure) -> str:
    """Why a webhook was not applied this time; empty when it was."""
    try:
        handled = await context.news.replayed(failure.provider, failure.event)
        session_id = handled.applied.session_id if handled.applied else None
        if session_id:
            await context.rpc.add_session_note(
                session_id, f"{name}: replay {failure.provider} {failure.event.id}"[:500]
            )
    except PgcheckoutError as error:
        return f"{failure.event.id}: {error.message}"
    return f"{failure.event.id}: {handled.reason}." if handled.result == "refused" else ""


def _signed(name: str, act: str, note: str) -> str:
    return f"{name}: {act}, {note}" if note else f"{name}: {act}"


def _tell_of(context: Context, session_id: UUID, back: str, said: Flash) -> Response:
    return _tell(context, back or f"{HOME}/sessions/{session_id}", said)


def _tell(context: Context, back: str, said: Flash) -> Response:
    """Back to where the form was, with what became of it."""
    response = RedirectResponse(local(back), 303)
    flash(context.settings, response, said.level, said.text)
    return response
