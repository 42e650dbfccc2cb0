"""What an operator does: each act is a form, names its operator in the audit trail, and ends on a page that says what
became of it."""

from __future__ import annotations

import contextlib
import logging
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from bridge.api.context import Context, FromContext
from bridge.api.dashboard.access import HOME, Flash, Writer, flash, local
from bridge.api.dashboard.html import PageRoute
from bridge.errors import DeadLetterUnknown, InvalidRequest, NotSupported, PgcheckoutError
from bridge.money import display_amount, minor_units
from bridge.rpc import Failure
from bridge.values import Attempt

__all__ = ["router"]

log = logging.getLogger("pgcheckout")
router = APIRouter(prefix=HOME, route_class=PageRoute, include_in_schema=False)

_DEAD_LETTERS = f"{HOME}/dead-letters"
_PAID = ("completed", "partially_refunded", "refunded")
_GIVEN = ("pending", "succeeded")

Note = Annotated[str, Form(min_length=1, max_length=400)]
Back = Annotated[str, Form(max_length=500)]


@router.post("/sessions/{session_id}/retry")
async def retry(session_id: UUID, context: FromContext, visit: Writer, back: Back = "") -> Response:
    """Deliver again, or take back again."""
    await context.rpc.add_session_note(session_id, f"{visit.name}: retry fulfilment")
    done = await context.rpc.retry_fulfilment(session_id)
    if done.fulfilment_status == "failed" or "reversal_failed" in (done.review_reason or ""):
        said = Flash("failed", "Tried again, and refused again: the session's story says why.")
    else:
        said = Flash("done", f"Tried again: {done.fulfilment_status}.")
    return _tell_of(context, session_id, back, said)


@router.post("/sessions/{session_id}/refund")
async def refund(
    *,
    session_id: UUID,
    context: FromContext,
    visit: Writer,
    amount: Annotated[str, Form(max_length=30)],
    seen: Annotated[int, Form(ge=0)],
    note: Annotated[str, Form(max_length=200)] = "",
    back: Back = "",
) -> Response:
    """Give money back through the provider. ``amount`` in major units; ``seen``: how many refunds there were when the
    operator looked: what was given since may be what is meant now."""
    _check_note(note)
    attempt = await context.rpc.find_checkout_attempt(session_id=session_id)
    wanted = minor_units(amount, attempt.currency)
    order = f"{visit.name}: orders a refund of {display_amount(wanted, attempt.currency)}"
    await context.rpc.add_session_note(session_id, f"{order}, {note}" if note else order)
    done = await context.refunds.give(session_id, amount=wanted, reason=note or None, seen=seen)
    if done.status not in _GIVEN:
        return _tell_of(context, session_id, back, Flash("failed", done.message))
    return _tell_of(
        context, session_id, back, Flash("done", f"{display_amount(done.amount, done.currency)}. {done.message}")
    )


@router.post("/sessions/{session_id}/dismiss")
async def dismiss(
    *,
    session_id: UUID,
    context: FromContext,
    visit: Writer,
    reasons: Annotated[str, Form(max_length=1000)],
    note: Note,
    back: Back = "",
) -> Response:
    """Close a review of which nothing is left to do."""
    await context.rpc.close_review(session_id, f"{visit.name}: {note}", reasons)
    return _tell_of(context, session_id, back, Flash("done", "The review is closed."))


@router.post("/sessions/{session_id}/note")
async def leave_note(session_id: UUID, context: FromContext, visit: Writer, note: Note) -> Response:
    """Write into the audit trail."""
    await context.rpc.add_session_note(session_id, f"{visit.name}: {note}")
    return _tell_of(context, session_id, "", Flash("done", "The note is in the session's story."))


@router.post("/sessions/{session_id}/ask")
async def ask(session_id: UUID, context: FromContext, visit: Writer, back: Back = "") -> Response:
    """Ask the provider now."""
    await context.rpc.add_session_note(session_id, f"{visit.name}: ask the provider")
    attempt = await context.rpc.find_checkout_attempt(session_id=session_id)
    if not await _asked(context, attempt):
        return _tell_of(context, session_id, back, Flash("failed", "The provider cannot be asked about this session."))
    now = await context.rpc.find_checkout_attempt(session_id=session_id)
    return _tell_of(context, session_id, back, Flash("done", f"The provider was asked: the session is {now.status}."))


async def _asked(context: Context, attempt: Attempt) -> bool:
    if attempt.status not in _PAID:
        return (await context.checkout.verify(None, "admin", session_id=attempt.session_id)).verified
    try:  # to buyers, what is paid is settled; an operator wants to hear of refunds
        await context.checkout.ask(attempt, "admin")
    except NotSupported:
        return False
    return True


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
    text = f"{applied} of {len(said)} applied. {' '.join(filter(None, said[:5]))}" if said else "It waits no more."
    return _tell(context, _DEAD_LETTERS, Flash("done" if applied == len(said) else "failed", text.strip()))


async def _replayed(context: Context, name: str, failure: Failure) -> str:
    """Why a webhook was not applied this time; empty when it was, or had been."""
    try:
        handled = await context.news.replayed(failure.provider, failure.event)
    except PgcheckoutError as error:
        return f"{failure.event.id}: {error.message}"
    if handled.result not in ("applied", "duplicate"):
        return f"{failure.event.id}: {handled.result}, {handled.reason}."
    if handled.applied and handled.applied.session_id:
        note = f"{name}: replay {failure.provider} {failure.event.id}"
        await _try_to_note(context, handled.applied.session_id, note[:500])
    return ""


@router.post("/dead-letters/close")
async def close_webhook(
    context: FromContext,
    visit: Writer,
    provider: Annotated[str, Form(max_length=64)],
    event: Annotated[str, Form(max_length=300)],
    note: Note,
) -> Response:
    """A dead webhook of which nothing is left to do."""
    await context.rpc.close_webhook_failure(provider, event, f"{visit.name}: {note}")
    return _tell(context, _DEAD_LETTERS, Flash("done", f"{event} waits no more."))


@router.post("/dead-letters/send")
async def send_letter(context: FromContext, visit: Writer, number: Annotated[int, Form(ge=1)]) -> Response:
    """Send a letter again that was given up."""
    letters = {letter.number: letter for letter in await context.rpc.list_dead_notifications()}
    if number not in letters:
        raise DeadLetterUnknown("This letter waits no more.", "Look at the page again.")
    await context.rpc.retry_notification(number)
    letter = letters[number]
    await _try_to_note(context, letter.session_id, f"{visit.name}: send the {letter.kind} again")
    return _tell(context, _DEAD_LETTERS, Flash("done", "The letter is queued again."))


async def _try_to_note(context: Context, session_id: UUID, note: str) -> None:
    """Note what is done already: that its session has gone, or the database away, does not undo it."""
    with contextlib.suppress(PgcheckoutError):
        await context.rpc.add_session_note(session_id, note)


def _check_note(note: str) -> None:
    """Before anything is written: providers take plain text only."""
    if not note.isprintable():
        raise InvalidRequest("note: contains a character that is not plain text.", "Type it instead of pasting it.")


def _tell_of(context: Context, session_id: UUID, back: str, said: Flash) -> Response:
    return _tell(context, back or f"{HOME}/sessions/{session_id}", said)


def _tell(context: Context, back: str, said: Flash) -> Response:
    """Back to where the form was, with what became of it."""
    response = RedirectResponse(local(back), 303)
    flash(context.settings, response, said.level, said.text)
    return response
