"""Signing in and out, and the files that every page uses."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from bridge.api.context import FromContext
from bridge.api.dashboard.access import HOME, Writer, enter, leave, local
from bridge.api.dashboard.html import PageRoute, page, static_file
from bridge.errors import NotSignedIn, NotSupported

__all__ = ["router"]

log = logging.getLogger("pgcheckout")
router = APIRouter(prefix=HOME, route_class=PageRoute, include_in_schema=False)


@router.get("/sign-in")
async def show_sign_in(request: Request, context: FromContext) -> Response:
    """Ask for the admin token."""
    if context.settings.admin_token is None:
        raise NotSupported("The dashboard is closed.", "Set PGCHECKOUT_ADMIN_TOKEN to open it.")
    lost = "You were signed out. Nothing was done: sign in, and do it again." if "lost" in request.query_params else ""
    return page(request, "sign_in.html", None, wanted=local(request.query_params.get("next", "")), problem=lost)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    context: FromContext,
    token: Annotated[str, Form(max_length=1000)],
    name: Annotated[str, Form(max_length=200)],
    wanted: Annotated[str, Form(max_length=500)] = HOME,
) -> Response:
    """Begin a visit."""
    response = RedirectResponse(local(wanted), 303)
    try:
        enter(context.settings, response, token, name)
    except NotSignedIn as error:
        log.warning("a sign-in to the dashboard was refused")
        return page(request, "sign_in.html", None, 401, wanted=local(wanted), problem=error.message)
    return response


@router.post("/sign-out")
async def sign_out(_visit: Writer) -> Response:
    """End a visit."""
    response = RedirectResponse(f"{HOME}/sign-in", 303)
    leave(response)
    return response


@router.get("/static/{name}")
async def send_static_file(name: str, v: str = "") -> Response:
    """Style and scripts; ``v`` is the digest that a page asked for."""
    return static_file(name, v)
