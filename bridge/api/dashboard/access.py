"""Who may look: an operator signs in with PGCHECKOUT_ADMIN_TOKEN and gets a cookie that only this bridge can have made.

Its key comes from the admin token: another token ends all visits. Forms carry a token of their visit, so that no other
site can send one.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import quote

import jwt
from fastapi import Depends, Form, Request, Response

from bridge.api.context import FromContext
from bridge.auth import check_token
from bridge.errors import InvalidRequest, NotSignedIn, NotSupported
from bridge.settings import Settings

__all__ = [
    "HOME",
    "Flash",
    "SignInFirst",
    "Visit",
    "Visitor",
    "Writer",
    "enter",
    "flash",
    "flashed",
    "forget_flash",
    "leave",
    "local",
    "page_of",
    "sign_in_address",
    "visit_of",
]

HOME = "/dashboard"
_VISIT, _FLASH = "pgcheckout_dashboard", "pgcheckout_dashboard_said"
_LASTS = timedelta(hours=8)
_ALGORITHM = "HS256"
_INSIDE = re.compile(rf"{HOME}(/[\w/-]*)?(\?[\w=&.-]*)?", re.ASCII)


class SignInFirst(Exception):
    """The visitor is not signed in; ``wanted`` is where they were going, ``lost`` whether a form is lost with it."""

    def __init__(self, wanted: str, *, lost: bool) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.lost = lost


@dataclass(frozen=True, slots=True)
class Visit:
    """A signed-in operator. ``csrf`` must come with every form of this visit."""

    name: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Flash:
    """What became of the last form, told once. ``level``: done or failed."""

    level: str
    text: str


def enter(settings: Settings, response: Response, token: str, name: str) -> None:
    """Begin a visit. ``name`` stands in the audit trail. Raises NotSupported, NotSignedIn, InvalidRequest."""
    expected = settings.admin_token
    if expected is None:
        raise NotSupported("The dashboard is closed.", "Set PGCHECKOUT_ADMIN_TOKEN to open it.")
    name = name.strip()
    if not 0 < len(name) <= 60 or not name.isprintable():
        raise InvalidRequest("name: must have 1 to 60 characters.", "It stands in the audit trail.")
    check_token(f"Bearer {token}", expected, "admin")
    claims = {"sub": name, "jti": secrets.token_hex(16)}
    _set(settings, response, _VISIT, claims, _LASTS)


def leave(response: Response) -> None:
    """End a visit."""
    response.delete_cookie(_VISIT, path=HOME)


def visit_of(settings: Settings, request: Request) -> Visit | None:
    """Who is signed in. Raises NotSupported where the dashboard is closed."""
    claims = _read(settings, request, _VISIT)
    if claims is None:
        return None
    csrf = hmac.digest(_key(settings), b"form " + claims["jti"].encode(), "sha256").hex()
    return Visit(claims["sub"], csrf)


def page_of(request: Request) -> str:
    """The page that a request is about: of a form, the one that it stands on."""
    path, query = request.url.path, request.url.query
    if request.method == "POST":
        return local(path.rpartition("/")[0])
    return local(f"{path}?{query}" if query else path)


async def _visitor(request: Request, context: FromContext) -> Visit:
    visit = visit_of(context.settings, request)
    if visit is None:
        raise SignInFirst(page_of(request), lost=request.method == "POST")
    return visit


Visitor = Annotated[Visit, Depends(_visitor)]


async def _writer(visit: Visitor, csrf: Annotated[str, Form(max_length=200)] = "") -> Visit:
    if not hmac.compare_digest(csrf.encode(), visit.csrf.encode()):
        raise NotSignedIn("This form is not of this visit.", "Open the page again and repeat what you did.")
    return visit


Writer = Annotated[Visit, Depends(_writer)]


def flash(settings: Settings, response: Response, level: str, text: str) -> None:
    """Let the next page say something, once."""
    short = text.encode()[:1000].decode(errors="ignore")  # a cookie has 4096 bytes
    _set(settings, response, _FLASH, {"sub": short, "level": level}, timedelta(minutes=1))


def flashed(settings: Settings, request: Request) -> Flash | None:
    """What the form before has left to say."""
    claims = _read(settings, request, _FLASH)
    return Flash(claims["level"], claims["sub"]) if claims else None


def forget_flash(response: Response) -> None:
    """It was said."""
    response.delete_cookie(_FLASH, path=HOME)


def local(wanted: str) -> str:
    """An address of the dashboard, or its home: a sign-in leads nowhere else."""
    return wanted if _INSIDE.fullmatch(wanted) else HOME


def sign_in_address(first: SignInFirst) -> str:
    """The sign-in page that leads to where a visitor was going."""
    return f"{HOME}/sign-in?next={quote(first.wanted, safe='')}{'&lost=1' if first.lost else ''}"


def _key(settings: Settings) -> bytes:
    token = settings.admin_token
    if token is None:
        raise NotSupported("The dashboard is closed.", "Set PGCHECKOUT_ADMIN_TOKEN to open it.")
    return hmac.digest(token.get_secret_value().encode(), b"pgcheckout dashboard", "sha256")


def _set(settings: Settings, response: Response, cookie: str, claims: dict[str, str], lasts: timedelta) -> None:
    value = jwt.encode(claims | {"aud": cookie, "exp": datetime.now(UTC) + lasts}, _key(settings), algorithm=_ALGORITHM)
    response.set_cookie(
        cookie, value, max_age=int(lasts.total_seconds()), path=HOME, httponly=True, samesite="lax",
        secure=settings.public_url.scheme == "https",
    )  # fmt: skip


def _read(settings: Settings, request: Request, cookie: str) -> dict[str, str] | None:
    try:
        claims: dict[str, str] = jwt.decode(
            request.cookies.get(cookie, ""), _key(settings), algorithms=[_ALGORITHM], audience=cookie,
            options={"require": ["exp", "sub"]},
        )  # fmt: skip
    except jwt.PyJWTError:
        return None
    return claims
