"""Routes that providers and returning browsers use."""

from __future__ import annotations

import logging
import re
from html import escape
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from bridge.alerts import note
from bridge.api.context import Context, FromContext, context_of
from bridge.api.edge import note_refusal
from bridge.api.errors import ErrorBody, refusals
from bridge.api.sources import check_source
from bridge.errors import PgcheckoutError, ProviderUnknown, SignatureInvalid, SourceRefused
from bridge.metrics import WEBHOOKS
from bridge.values import Handled

__all__ = ["add_webhooks", "router"]

log = logging.getLogger("pgcheckout")
router = APIRouter(tags=["providers"])

_ANY = {"schema": {"type": "string", "format": "binary"}}
_RAW_BODY = {
    "requestBody": {
        "description": "As the provider sends it, to the byte: its signature is over these.",
        "content": {"application/json": _ANY, "application/x-www-form-urlencoded": _ANY},
    }
}
_PAGE: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}}}}
_FORM = {"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}}}
_RETURN: dict[int | str, dict[str, Any]] = {
    **refusals(408, 413, 422),
    429: {"description": "Too many at once; the page comes again by itself.", **_PAGE},
    503: {
        "model": ErrorBody, "description": "The payment cannot be confirmed yet; the page comes again by itself.",
        **_PAGE,
    },
}  # fmt: skip
_ON_THE_WAY = ("completed", "processing", "partially_refunded", "refunded")


_PROVIDER_NAME = re.compile("^[a-z][a-z0-9_]{0,31}$")
ProviderName = Annotated[str, Path(pattern=_PROVIDER_NAME.pattern)]


class WebhookAnswer(BaseModel):
    """``result``: applied, duplicate, ignored or refused; the last two with a ``reason``. Providers ignore it."""

    result: str
    reason: str = ""


class _WebhookRoute(APIRoute):
    """Described by FastAPI and mostly served without it: solving dependencies and validating answers takes FastAPI as
    long as all else that the bridge does for a webhook."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        provider = scope["path_params"]["provider"]
        if scope["method"] == "POST" and _PROVIDER_NAME.fullmatch(provider):
            response = await receive_webhook(provider, Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)  # it says why not


async def receive_webhook(provider: ProviderName, request: Request) -> JSONResponse:
    """A provider's notification. Anything but 2xx asks the provider to send it again, where that can help."""
    context = context_of(request)
    body = await request.body()
    try:
        adapter = context.checkout.provider(provider)
    except ProviderUnknown as error:
        WEBHOOKS.labels("unknown", error.reason).inc()
        note_refusal(request.scope, error)
        raise
    result: Handled | PgcheckoutError
    try:
        check_source(request, context.settings, adapter)
        result = await context.news.notified(provider, request.headers, body)
        WEBHOOKS.labels(provider, result.result).inc()
    except PgcheckoutError as error:
        WEBHOOKS.labels(provider, error.reason).inc()
        if isinstance(error, SignatureInvalid | SourceRefused):
            note("signature_failures", provider)
        note_refusal(request.scope, error)
        result = error
    reply = adapter.reply(body, result)
    if reply is not None:
        return JSONResponse(dict(reply))
    if isinstance(result, PgcheckoutError):
        raise result
    return JSONResponse({"result": result.result, "reason": result.reason})


def add_webhooks(app: FastAPI) -> None:
    """Add the route of webhooks as the first one that is tried, and not in a router, which would look for it twice."""
    app.router.add_api_route(
        "/webhooks/{provider}",
        receive_webhook,
        methods=["POST"],
        response_model=WebhookAnswer,
        responses=refusals(400, 403, 404, 408, 413, 422, 502),
        tags=["providers"],
        openapi_extra=_RAW_BODY,
        route_class_override=_WebhookRoute,
    )
    app.router.routes.insert(0, app.router.routes.pop())


@router.get("/return/{provider}", status_code=303, response_class=RedirectResponse, responses=_RETURN)
async def receive_return_by_link(provider: ProviderName, request: Request, context: FromContext) -> Response:
    """A buyer comes back: verify, apply, and on to the app's success or cancel page."""
    return await _send_on(context, provider, request.url.query)


@router.post(
    "/return/{provider}", status_code=303, response_class=RedirectResponse, responses=_RETURN, openapi_extra=_FORM
)
async def receive_return_by_form(provider: ProviderName, request: Request, context: FromContext) -> Response:
    """The same for providers that send the buyer back with a form."""
    form = (await request.body()).decode("latin-1")
    return await _send_on(context, provider, "&".join(part for part in (request.url.query, form) if part))


@router.get("/resume/{token}", status_code=303, response_class=RedirectResponse, responses=refusals(422))
async def resume(token: str, context: FromContext) -> Response:
    """A buyer follows the link of a reminder: on to the payment page, the old one if it is alive."""
    settings = context.settings
    try:
        opened = await context.checkout.resume(context.links.read(token))
    except PgcheckoutError as error:
        log.warning("a reminder's link was not followed: %s", error.reason)
        return _redirect(str(settings.cancel_url), {"status": "unknown"})
    if opened.checkout_url:
        return RedirectResponse(opened.checkout_url, status_code=303)
    target = settings.success_url if opened.status in _ON_THE_WAY else settings.cancel_url
    return _redirect(str(target), {"session_id": str(opened.session_id), "status": opened.status})


async def _send_on(context: Context, provider: str, query: str) -> Response:
    settings = context.settings
    try:
        known = await context.news.returned(provider, query)
    except PgcheckoutError as error:
        if error.retryable and context.checkout.provider(provider).returns_are_proof:
            log.warning("return from %s could not be confirmed yet: %s", provider, error.reason)
            return _wait_here(provider, query)
        # a buyer is never left on an error page of ours, and one who may have paid is not invited to pay again:
        # the app's page can ask /verify
        log.warning("return from %s not applied: %s", provider, error.reason)
        unknown = isinstance(error, ProviderUnknown)
        return _redirect(str(settings.cancel_url if unknown else settings.success_url), {"status": "unknown"})
    if known is None:
        return _redirect(str(settings.cancel_url), {"status": "unknown"})
    happy = known.status in _ON_THE_WAY or not known.verified
    target = str(settings.success_url if happy else settings.cancel_url)
    return _redirect(target, {"session_id": str(known.attempt.session_id), "status": known.status})


def _wait_here(provider: str, query: str) -> Response:
    """This return is the only proof of the payment: the browser keeps it and comes again by itself."""
    try:
        received = query.encode("latin-1")
    except UnicodeEncodeError:
        received = query.encode()
    again = f"/return/{provider}?{quote(received, safe='=&%+;,/:@!$*()~?-._')}"
    body = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5; url={escape(again)}">'
        "<title>One moment</title><p>We are confirming your payment. Please keep this page open."
    )
    return HTMLResponse(body, 503, {"Retry-After": "5", "Cache-Control": "no-store"})


def _redirect(target: str, parameters: dict[str, str]) -> RedirectResponse:
    parts = urlsplit(target)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *parameters.items()])
    return RedirectResponse(urlunsplit(parts._replace(query=query)), status_code=303)
