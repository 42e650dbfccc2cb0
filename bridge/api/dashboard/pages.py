"""What an operator reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from bridge.api.context import Context, FromContext
from bridge.api.dashboard.access import HOME, Visitor
from bridge.api.dashboard.html import PageRoute, page
from bridge.api.dashboard.reasons import advice
from bridge.api.health import stale_workers
from bridge.errors import AttemptNotFound, InvalidRequest, SessionNotFound
from bridge.money import major_units
from bridge.providers import ADAPTERS
from bridge.report.figures import Figures
from bridge.report.recent import PERIODS
from bridge.rpc import Moment, SessionFilter
from bridge.values import Attempt, SessionStatus

__all__ = ["router"]

router = APIRouter(prefix=HOME, route_class=PageRoute, include_in_schema=False)

_SOME = 50
_REVIEWS = 20  # each is a card, and asks for its attempt
_MOMENTS = 500  # of a story; a session with more has a provider that repeats itself
_CHANGING = 5  # seconds after which a page asks again while its report is made

Since = Literal["1", "7", "30", "90", ""]
_NO_FURTHER_BY_PROVIDER = ("1", "7", "30")  # days; no index knows the provider, and a page must not read a year


@router.get("")
async def show_overview(
    request: Request, context: FromContext, visit: Visitor, days: Annotated[int, Query()] = PERIODS[0]
) -> Response:
    """How the shop is doing, and what waits."""
    if days not in PERIODS:
        raise InvalidRequest(f"days: must be one of {', '.join(map(str, PERIODS))}.")
    health, recent = await asyncio.gather(context.rpc.payment_health(), context.reports.read(days))
    figures = recent.figures
    return page(
        request, "overview.html", visit, days=days, periods=PERIODS, figures=figures, failed=recent.failed,
        health=health, funnel=_funnel(figures), today=datetime.now(UTC).date(),
        stale=stale_workers(health["heartbeats"]), again=_CHANGING,
    )  # fmt: skip


def _funnel(figures: Figures | None) -> Sequence[tuple[str, int]]:
    """How far the buyers of the report's last day (UTC) came."""
    line = (figures.line(figures.until.date()) if figures else None) or {}
    return [
        (name, line.get(key, 0))
        for name, key in (
            ("Created", "created"),
            ("Opened", "opened"),
            ("Paid", "completed"),
            ("Fulfilled", "fulfilled"),
        )
    ]


@router.get("/sessions")
async def show_sessions(
    *,
    request: Request,
    context: FromContext,
    visit: Visitor,
    status: Annotated[SessionStatus | Literal[""], Query()] = "",
    provider: Annotated[str, Query(max_length=64)] = "",
    since: Since = "7",
    user: UUID | Literal[""] = "",
    before: UUID | None = None,
) -> Response:
    """Sessions, newest first."""
    cut = bool(provider) and since not in _NO_FURTHER_BY_PROVIDER
    since = "30" if cut else since
    only: SessionFilter = {"status": status or None, "user_id": user or None, "provider": provider or None}
    if since:
        only["since"] = datetime.now(UTC) - timedelta(days=int(since))
    found, more = await _some(context, before, _SOME, only)
    return page(
        request, "sessions.html", visit, sessions=found, more=more, statuses=get_args(SessionStatus),
        providers=sorted([*ADAPTERS, "none"]),
        cut=cut, chosen={"status": status, "provider": provider, "since": since, "user": str(user)},
    )  # fmt: skip


@router.get("/find")
async def find(context: FromContext, _visit: Visitor, q: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Go to the session of an id or reference, or to the sessions of a user."""
    wanted = q.strip()
    if "-" not in wanted:  # a reference is 32 hex digits, too: only hyphens make an id
        try:
            attempt = await context.rpc.find_checkout_attempt(reference=wanted)
        except SessionNotFound as error:
            raise SessionNotFound("Nothing here has this reference.", error.hint) from None
        return RedirectResponse(f"{HOME}/sessions/{attempt.session_id}", 303)
    try:
        known = UUID(wanted)
    except ValueError:
        raise InvalidRequest("q: is neither an id nor a reference.", "Look for the id of a session or user.") from None
    try:
        await context.rpc.checkout_session_story(known)
    except SessionNotFound:
        return RedirectResponse(f"{HOME}/sessions?since=&user={known}", 303)
    return RedirectResponse(f"{HOME}/sessions/{known}", 303)


@router.get("/sessions/{session_id}")
async def show_session(session_id: UUID, request: Request, context: FromContext, visit: Visitor) -> Response:
    """All that happened to a session, and what can be done."""
    story = await context.rpc.checkout_session_story(session_id)
    known = next((moment.detail for moment in story if moment.kind == "session"), None)
    attempt = await _attempt(context, session_id) if known else None
    return page(
        request, "session.html", visit, session_id=str(session_id), known=known, story=_with_gaps(story),
        earlier=max(len(story) - _MOMENTS, 0), can=_acts(known, attempt) if known else {},
        advice=list(advice(known.get("review_reason") if known else None)),
    )  # fmt: skip


@router.get("/reviews")
async def show_reviews(request: Request, context: FromContext, visit: Visitor, before: UUID | None = None) -> Response:
    """Sessions that a person must look at, newest first."""
    found, more = await _some(context, before, _REVIEWS, {"in_review": True})
    reviews = []
    for session in found:
        attempt = await _attempt(context, UUID(session["session_id"]))
        reviews.append((session, list(advice(session["review_reason"])), _acts(session, attempt)))
    return page(request, "reviews.html", visit, reviews=reviews, more=more)


@router.get("/dead-letters")
async def show_dead_letters(request: Request, context: FromContext, visit: Visitor) -> Response:
    """Genuine notifications that were not applied, and letters that were given up."""
    failures, letters = await asyncio.gather(context.rpc.list_webhook_failures(), context.rpc.list_dead_notifications())
    return page(request, "dead_letters.html", visit, failures=failures, letters=letters)


@router.get("/")
async def show_home() -> Response:
    """The same with a slash."""
    return RedirectResponse(HOME, 303)


@router.get("/{rest:path}")
async def show_nothing(rest: str, _visit: Visitor) -> Response:
    """What nobody knows."""
    raise HTTPException(404, rest)


async def _some(
    context: Context, before: UUID | None, limit: int, only: SessionFilter
) -> tuple[list[Mapping[str, Any]], bool]:
    """A page of sessions, and whether there are more."""
    found = await context.rpc.list_checkout_sessions(before, limit + 1, **only)
    return found[:limit], len(found) > limit


async def _attempt(context: Context, session_id: UUID) -> Attempt | None:
    try:
        return await context.rpc.find_checkout_attempt(session_id=session_id)
    except (SessionNotFound, AttemptNotFound):  # it never came to a page
        return None


def _acts(session: Mapping[str, Any], attempt: Attempt | None) -> Mapping[str, Any]:
    """What can be done to a session: ``retry`` and ``ask``, whether; ``refund``, what is left of which payment, and how
    much of it is proposed, in major units."""
    reasons = (session.get("review_reason") or "").split(", ")
    # of two payments it would be the wrong one
    refundable = attempt and attempt.provider_payment_id and "duplicate_payment" not in reasons
    left = attempt.refundable_amount if attempt and refundable else 0
    return {
        "retry": session["fulfilment_status"] == "failed" or "reversal_failed" in reasons,
        "ask": attempt is not None and attempt.reference is not None,
        "refund": _refund(session, attempt, left) if attempt and left else None,
        "review": session.get("review_reason"),
    }


def _refund(session: Mapping[str, Any], attempt: Attempt, left: int) -> Mapping[str, Any]:
    too_much = left - (session["amount"] - session["refunded_amount"])
    overpaid = "overpaid" in (session.get("review_reason") or "") and too_much > 0
    return {
        "left": major_units(left, attempt.currency),
        "proposed": major_units(too_much if overpaid else left, attempt.currency),
        "payment": attempt.provider_payment_id,
        "seen": attempt.refund_count,
    }


def _with_gaps(story: Sequence[Moment]) -> list[tuple[Moment, timedelta]]:
    """Each moment, and how long after the one before it was."""
    befores = [story[0], *story[:-1]]
    gaps = [(moment, moment.at - before.at) for before, moment in zip(befores, story, strict=True)]
    return gaps[-_MOMENTS:]
