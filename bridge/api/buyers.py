"""Routes for signed-in users: start a checkout, pay a session, verify a payment."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bridge.api.context import FromContext, SignedIn
from bridge.api.errors import refusals
from bridge.checkout import Opened, Verified
from bridge.idempotency import run_once
from bridge.values import SessionStatus

__all__ = ["router"]

router = APIRouter(
    tags=["checkout"],
    responses=refusals(400, 401, 403, 404, 408, 409, 410, 413, 422, 502),
)

Name = Annotated[str, Field(min_length=1, max_length=200)]


class CheckoutRequest(BaseModel):
    """What to buy. The price comes from the catalogue; ``price`` (major units) is only compared with it."""

    model_config = ConfigDict(extra="forbid")

    plan: Annotated[Name, Field(examples=["credits_100"])]
    provider: Name | None = None
    currency: Annotated[str, Field(pattern="^[A-Za-z]{3}$", examples=["USD"])] | None = None
    coupon: Name | None = None
    subject: Name | None = None
    email: Annotated[str, Field(max_length=320)] | None = None
    price: Annotated[Decimal, Field(ge=0, le=10**15, allow_inf_nan=False)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class PayRequest(BaseModel):
    """Which provider to pay with; the session's own by default."""

    model_config = ConfigDict(extra="forbid")

    provider: Name | None = None


class CheckoutAnswer(BaseModel):
    """Send the buyer to ``checkout_url``; there is none when nothing is to be paid. ``amount`` is in minor units."""

    session_id: UUID
    status: SessionStatus
    checkout_url: str | None
    expires_at: datetime
    amount: int
    currency: str


class VerifyRequest(BaseModel):
    """Exactly one of the three names of a payment; ``provider`` goes with the provider's own."""

    model_config = ConfigDict(extra="forbid")

    session_id: UUID | None = None
    reference: Name | None = None
    provider_session_id: Name | None = None
    provider: Name | None = None

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if sum(name is not None for name in (self.session_id, self.reference, self.provider_session_id)) != 1:
            raise ValueError("send exactly one of session_id, reference and provider_session_id")
        return self


class VerifyAnswer(BaseModel):
    """``success``: paid and fulfilled. ``verified``: the provider was asked, or the session is known to be paid."""

    success: bool
    payment_status: SessionStatus
    verified: bool
    amount: int
    currency: str
    fulfilment: dict[str, Any] | None
    message: str


@router.post("/checkout")
async def start_checkout(
    request: CheckoutRequest,
    user: SignedIn,
    context: FromContext,
    http_request: Request,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> CheckoutAnswer:
    """Session and payment page in one call. The same purchase again gives the same open session and page.

    A repeat with the same Idempotency-Key gets the answer that the first request got, for a day.
    """
    arguments = {
        "p_plan": request.plan,
        "p_email": request.email or user.email,
        "p_price": str(request.price) if request.price is not None else None,
        "p_currency": request.currency,
        "p_coupon": request.coupon,
        "p_subject": request.subject,
        "p_idempotency_key": idempotency_key,
        "p_metadata": request.metadata,
    }
    provider = request.provider or context.settings.default_provider

    async def start() -> dict[str, Any]:
        return _checkout_answer(await context.checkout.start(user, provider, arguments)).model_dump(mode="json")

    body = await http_request.body()
    return CheckoutAnswer.model_validate(await run_once(context.rpc, user.id, idempotency_key, body, start))


@router.post("/checkout/{session_id}/pay")
async def pay_session(
    session_id: UUID, user: SignedIn, context: FromContext, request: PayRequest | None = None
) -> CheckoutAnswer:
    """A payment page for a session that the client made with get_or_create_checkout_session."""
    return _checkout_answer(await context.checkout.pay(user, session_id, request.provider if request else None))


@router.post("/checkout/{session_id}/cancel")
async def cancel_session(session_id: UUID, user: SignedIn, context: FromContext) -> VerifyAnswer:
    """Close the payment page at its provider and cancel the session. What has been paid stays paid, and is told."""
    return _verify_answer(await context.checkout.cancel(user, session_id))


@router.post("/verify")
async def verify_payment(request: VerifyRequest, user: SignedIn, context: FromContext) -> VerifyAnswer:
    """Ask the provider now, apply what it says, and tell. Safe to repeat."""
    known = await context.checkout.verify(
        user,
        "verify",
        session_id=request.session_id,
        reference=request.reference,
        provider_session_id=request.provider_session_id,
        provider=request.provider or (context.settings.default_provider if request.provider_session_id else None),
    )
    return _verify_answer(known)


def _verify_answer(known: Verified) -> VerifyAnswer:
    return VerifyAnswer(
        success=known.status == "completed" and known.fulfilment_status == "fulfilled",
        payment_status=known.status,
        verified=known.verified,
        amount=known.attempt.amount,
        currency=known.attempt.currency,
        fulfilment=dict(known.fulfilment) if known.fulfilment else None,
        message=_message(known),
    )


def _checkout_answer(opened: Opened) -> CheckoutAnswer:
    return CheckoutAnswer(
        session_id=opened.session_id,
        status=opened.status,
        checkout_url=opened.checkout_url,
        expires_at=opened.expires_at,
        amount=opened.amount,
        currency=opened.currency,
    )


def _message(known: Verified) -> str:
    if known.status == "completed":
        if known.fulfilment_status == "fulfilled":
            return "Paid. Thank you."
        return "Paid. We are looking at your order and will be in touch."
    return {
        "pending": "Not paid yet.",
        "processing": "The payment is on its way; this can take some days.",
        "failed": "The payment failed. Nothing was charged, or it is being looked at.",
        "expired": "The payment page has expired.",
        "cancelled": "The payment was cancelled.",
        "refunded": "Paid, and refunded.",
        "partially_refunded": "Paid, and refunded in part.",
    }[known.status]
