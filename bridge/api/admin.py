"""Routes for operators, opened by ``PGCHECKOUT_ADMIN_TOKEN``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from bridge.api.context import FromContext
from bridge.api.errors import refusals
from bridge.auth import check_token
from bridge.errors import NotSupported
from bridge.values import RefundStatus, SessionStatus

__all__ = ["router"]

# for the OpenAPI description only: the header is read below, to answer in our words
_BEARER = HTTPBearer(auto_error=False, scheme_name="AdminToken", description="PGCHECKOUT_ADMIN_TOKEN")


async def _admin(
    context: FromContext,
    _scheme: Annotated[object, Security(_BEARER)],
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> None:
    token = context.settings.admin_token
    if token is None:
        raise NotSupported("The admin routes are closed.", "Set PGCHECKOUT_ADMIN_TOKEN to open them.")
    check_token(authorization, token, "admin")


router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(_admin)],
    responses=refusals(400, 401, 404, 408, 409, 413, 422, 502),
)


class JobAnswer(BaseModel):
    """How much a job has done; call it again while that is more than nothing."""

    job: str
    done: int


@router.post("/jobs/{name}")
async def run_job(name: Annotated[str, Path(pattern="^[a-z_]{1,32}$")], context: FromContext) -> JobAnswer:
    """Do a job once, for installations without a worker and without pg_cron: reconcile, notify, remind, expire,
    number, cleanup, watch, audit."""
    return JobAnswer(job=name, done=await context.jobs.run(name))


class RefundRequest(BaseModel):
    """``amount`` in minor units; without one, all that is left of the payment."""

    model_config = ConfigDict(extra="forbid")

    session_id: UUID
    amount: Annotated[int, Field(gt=0, lt=10**15)] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class RefundAnswer(BaseModel):
    """``status`` is that of the refund, null when nothing was sent; ``message`` says why. Amounts in minor units."""

    session_id: UUID
    amount: int
    currency: str
    status: RefundStatus | None
    provider_refund_id: str | None
    session_status: SessionStatus
    refundable_amount: int
    message: str


@router.post("/refunds")
async def give_refund(
    request: RefundRequest,
    context: FromContext,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RefundAnswer:
    """Give money back through the provider and record it.

    Send an Idempotency-Key: a repeat with the same key gives nothing back a second time.
    """
    done = await context.refunds.give(
        request.session_id, amount=request.amount, reason=request.reason, key=idempotency_key
    )
    return RefundAnswer.model_validate(done, from_attributes=True)
