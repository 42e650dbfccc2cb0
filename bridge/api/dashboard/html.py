"""How pages are drawn, and what stands on a page when something was refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Coroutine
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bridge import __version__
from bridge.api.context import context_of
from bridge.api.dashboard.access import (
    HOME,
    SignInFirst,
    Visit,
    flashed,
    forget_flash,
    page_of,
    sign_in_address,
    visit_of,
)
from bridge.errors import PgcheckoutError
from bridge.money import display_amount, major_units
from bridge.report.figures import age, minutes, percent
from bridge.report.story import after, amount_of, details_of, facts_of, time_of
from bridge.report.text import without_addresses

if TYPE_CHECKING:  # 2 MB, for those who look at pages
    from jinja2 import Environment

__all__ = ["PageRoute", "page", "static_file"]

log = logging.getLogger("pgcheckout")

_HERE = Path(__file__).parent
_STATIC = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "chart.js": "text/javascript"}
_YEAR = 31_536_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
}


def page(request: Request, template: str, visit: Visit | None, /, status: int = 200, **values: Any) -> HTMLResponse:
    """A page; what the form before has left to say stands at its top, once."""
    settings = context_of(request).settings
    said = flashed(settings, request) if settings.admin_token else None
    text = _environment().get_template(template).render(
        home=HOME, visit=visit, said=said, production=settings.environment == "production", **values
    )  # fmt: skip
    response = HTMLResponse(text, status, _HEADERS)
    if said:
        forget_flash(response)
    return response


def static_file(name: str, digest: str) -> Response:
    """A file of ours, which browsers may keep if it is the one that they asked for. Raises HTTPException 404."""
    if name not in _STATIC:
        raise HTTPException(404)
    # while versions change, a page of one may ask another for its files
    headers = {"Cache-Control": f"public, max-age={_YEAR}, immutable"} if digest == _digest_of(name) else {}
    return Response(_bytes(name), media_type=_STATIC[name], headers=headers)


class PageRoute(APIRoute):
    """A route whose refusals are pages, and which sends visitors to sign in first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI calls it."""
        handle = super().get_route_handler()

        async def handle_or_say_why(request: Request) -> Response:
            try:
                return await handle(request)
            except SignInFirst as visitor:
                return RedirectResponse(sign_in_address(visitor), 303)
            except PgcheckoutError as error:
                if error.status >= 500:
                    log.error("%s: %s", error.reason, error.message)  # noqa: TRY400 # no trace: it is ours
                return _problem(request, error.status, error.message, error.hint)
            except RequestValidationError as error:
                wrong = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
                return _problem(request, 422, wrong, "Correct what the message names.")
            except HTTPException as error:
                return _problem(request, error.status_code, HTTPStatus(error.status_code).phrase)

        return handle_or_say_why


def _problem(request: Request, status: int, message: str, hint: str = "") -> HTMLResponse:
    settings = context_of(request).settings
    visit = visit_of(settings, request) if settings.admin_token else None
    back = page_of(request) if request.method == "POST" else HOME
    return page(request, "problem.html", visit, status, message=message, hint=hint, back=back)


@cache
def _bytes(name: str) -> bytes:
    return (_HERE / "static" / name).read_bytes()


def _address_of(name: str) -> str:
    return f"{HOME}/static/{name}?v={_digest_of(name)}"


def _digest_of(name: str) -> str:
    return hashlib.sha256(_bytes(name)).hexdigest()[:12]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 # see TYPE_CHECKING above

    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "after": after, "age": age, "amount_of": amount_of, "details_of": details_of, "facts_of": facts_of,
        "major": major_units, "masked": without_addresses, "minutes": minutes, "percent": percent,
    }  # fmt: skip
    environment.globals |= {"display_amount": display_amount, "static": _address_of, "time_of": time_of}
    environment.globals["version"] = __version__
    return environment
