"""Errors as answers: ``{"error": {"reason", "message", "hint"}}``, never a stack trace."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from bridge.errors import PgcheckoutError

__all__ = ["ErrorBody", "answer", "install", "refusals", "too_large", "unexpected"]

log = logging.getLogger("pgcheckout")


class ErrorDetail(BaseModel):
    """``reason`` is stable (docs/errors.md); ``message`` and ``hint`` are for people."""

    reason: str
    message: str
    hint: str = ""


class ErrorBody(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


def answer(status: int, reason: str, message: str, hint: str = "") -> JSONResponse:
    """An error answer."""
    body = ErrorBody(error=ErrorDetail(reason=reason, message=message, hint=hint))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}  # RFC 9110 asks for it
    if wait := re.match(r"retry_after=(\d+)", hint):
        headers["Retry-After"] = wait.group(1)
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def too_large() -> JSONResponse:
    """The answer to a body that is larger than PGCHECKOUT_MAX_BODY_BYTES."""
    return answer(413, "body_too_large", "The request body is too large.", "See PGCHECKOUT_MAX_BODY_BYTES.")


def unexpected() -> JSONResponse:
    """The answer when something went wrong that nobody thought of."""
    return answer(500, "internal_error", "Something went wrong here.", "It is in the log of the bridge.")


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description: these answers are errors of this form."""
    return {status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in statuses}


def install(app: FastAPI) -> None:
    """Teach the application to answer with errors of this form."""
    app.add_exception_handler(PgcheckoutError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, PgcheckoutError):
        return unexpected()
    if error.status >= 500:
        log.error("%s: %s", error.reason, error.message)
    return answer(error.status, error.reason, error.message, error.hint)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    # the field and what is wrong with it, never the value
    text = "; ".join(f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}" for p in problems)
    return answer(422, "invalid_request", text, "Correct the fields that the message names.")


async def _http(_request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 413:
        return too_large()
    if status == 408:
        response = answer(408, "body_too_slow", "The request body took too long.", "See PGCHECKOUT_MAX_BODY_SECONDS.")
    else:
        response = answer(status, f"http_{status}", HTTPStatus(status).phrase)
    if isinstance(error, HTTPException) and error.headers:  # Allow of a 405, say
        response.headers.update(error.headers)
    return response


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    # the server logs the trace
    return unexpected()
