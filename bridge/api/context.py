"""What every request may use, built once when the application starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPBearer

from bridge.api.health import Figures
from bridge.auth import Tokens, User
from bridge.checkout import Checkout
from bridge.jobs import Jobs
from bridge.mail import ResumeLinks
from bridge.news import News
from bridge.refunds import Refunds
from bridge.report.recent import Reports
from bridge.rpc import Rpc
from bridge.settings import Settings

__all__ = ["Context", "FromContext", "SignedIn", "context_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The parts of a running bridge."""

    settings: Settings
    rpc: Rpc
    checkout: Checkout
    news: News
    refunds: Refunds
    jobs: Jobs
    links: ResumeLinks
    tokens: Tokens
    figures: Figures
    reports: Reports


def context_of(request: Request) -> Context:
    """The parts of the bridge that got this request."""
    context = request.app.state.context
    assert isinstance(context, Context)  # noqa: S101 # set by the lifespan in app.py
    return context


async def _context(request: Request) -> Context:
    return context_of(request)  # what is not async, FastAPI would run in a thread


FromContext = Annotated[Context, Depends(_context)]


# for the OpenAPI description only: bridge.auth reads the header itself, to answer in our words
_BEARER = HTTPBearer(auto_error=False, bearerFormat="JWT", description="The user's Supabase access token.")


async def _user(
    context: FromContext,
    _scheme: Annotated[object, Security(_BEARER)],
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> User:
    return await context.tokens.user(authorization)


SignedIn = Annotated[User, Depends(_user)]
