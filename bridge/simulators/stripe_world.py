"""What happens inside Stripe: checkout sessions, the buyers who pay on them, and the events that tell of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from typing import Any

import httpx

__all__ = ["API_VERSION", "Json", "StripeWorld", "sign"]

Json = dict[str, Any]

API_VERSION = "2026-10-28.endive"


def sign(body: bytes, secret: str, timestamp: int | None = None) -> str:
    """A ``Stripe-Signature`` header for the body."""
    at = int(time.time()) if timestamp is None else timestamp
    digest = hmac.new(secret.encode(), str(at).encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class StripeWorld:
    """One Stripe account. Methods named after deeds do them and return the events that Stripe sends."""

    def __init__(self, *, livemode: bool = False) -> None:
        mode = "live" if livemode else "test"
        self.livemode = livemode
        self.secret_key, self.webhook_secret = f"sk_{mode}_{secrets.token_hex(12)}", f"whsec_{secrets.token_hex(12)}"
        self.events: list[Json] = []
        self.objects: dict[str, Json] = {}  # sessions, intents, charges, refunds and disputes by id
        self._intent_metadata: dict[str, Json] = {}

    def create_session(self, form: Json) -> Json:
        """Open a page, from the documented parameters."""
        price = form["line_items"]["0"]["price_data"]
        session = self._new(
            "cs", "checkout.session", status="open", payment_status="unpaid", mode="payment", ui_mode="hosted_page",
            amount_subtotal=int(price["unit_amount"]), amount_total=int(price["unit_amount"]),
            currency=price["currency"], client_reference_id=form.get("client_reference_id"),
            metadata=form.get("metadata", {}), payment_intent=None, customer=None,
            customer_email=form.get("customer_email"), customer_details=None, presentment_details=None,
            expires_at=int(form.get("expires_at", time.time() + 86_400)), client_secret=None,
            success_url=form["success_url"], cancel_url=form.get("cancel_url"),
        )  # fmt: skip
        session["url"] = f"https://checkout.stripe.com/c/pay/{session['id']}#fid"
        self._intent_metadata[session["id"]] = form.get("payment_intent_data", {}).get("metadata", {})
        return dict(session)

    def pay(self, session_id: str, *, presentment: Json | None = None) -> list[Json]:
        """Pay by card; with ``presentment`` in another currency (Adaptive Pricing)."""
        session = self._submit(session_id, "succeeded", presentment)
        session.update(payment_status="paid")
        return self._send(session, "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed")

    def pay_later(self, session_id: str) -> list[Json]:
        """Choose a delayed method, a bank debit say."""
        session = self._submit(session_id, "processing")
        return self._send(session, "charge.pending", "payment_intent.processing", "checkout.session.completed")

    def settle(self, session_id: str) -> list[Json]:
        """The delayed payment arrives."""
        session = self.objects[session_id]
        session.update(payment_status="paid")
        self._move_intent(session, "succeeded")
        return self._send(
            session, "charge.succeeded", "payment_intent.succeeded", "checkout.session.async_payment_succeeded"
        )

    def fail(self, session_id: str) -> list[Json]:
        """The delayed payment does not arrive."""
        session = self.objects[session_id]
        self._move_intent(session, "requires_payment_method")
        return self._send(
            session, "charge.failed", "payment_intent.payment_failed", "checkout.session.async_payment_failed"
        )

    def expire(self, session_id: str) -> list[Json]:
        """The page's time is over, or the merchant closed it."""
        session = self.objects[session_id]
        session.update(status="expired", url=None)
        return self._send(session, "checkout.session.expired")

    def refund(self, intent_id: str, amount: int, status: str = "succeeded") -> list[Json]:
        """Give money back, some or all."""
        charge = self.objects[self.objects[intent_id]["latest_charge"]]
        refunded = charge["amount_refunded"] + amount
        charge.update(amount_refunded=refunded, refunded=refunded == charge["amount"])
        refund = self._new("re", "refund", amount=amount, status=status, **taken_from(charge))
        return [self.event("refund.created", refund), self.event("charge.refunded", charge)]

    def fail_refund(self, refund_id: str) -> list[Json]:
        """The buyer's bank sends the refund back."""
        refund = self.objects[refund_id]
        charge = self.objects[refund["charge"]]
        charge.update(amount_refunded=charge["amount_refunded"] - refund["amount"], refunded=False)
        refund.update(status="failed")
        return [self.event(kind, refund) for kind in ("charge.refund.updated", "refund.updated", "refund.failed")]

    def dispute(self, intent_id: str, status: str = "needs_response") -> list[Json]:
        """The buyer complains at the bank."""
        charge = self.objects[self.objects[intent_id]["latest_charge"]]
        charge.update(disputed=True)
        dispute = self._new("dp", "dispute", amount=charge["amount"], status=status, evidence={}, **taken_from(charge))
        return [self.event(f"charge.dispute.{what}", dispute) for what in ("created", "funds_withdrawn")]

    def close_dispute(self, dispute_id: str, status: str) -> list[Json]:
        """The bank decides: ``won`` or ``lost``."""
        dispute = self.objects[dispute_id]
        dispute.update(status=status)
        kinds = ("closed", "funds_reinstated") if status == "won" else ("closed",)
        return [self.event(f"charge.dispute.{kind}", dispute) for kind in kinds]

    def sign(self, event: Json) -> tuple[dict[str, str], bytes]:
        """Headers and body of a delivery."""
        body = json.dumps(event, indent=2).encode()
        return {"stripe-signature": sign(body, self.webhook_secret), "content-type": "application/json"}, body

    def deliver(self, event: Json, url: str) -> httpx.Response:
        """Post an event to a webhook endpoint."""
        headers, body = self.sign(event)
        return httpx.post(url, content=body, headers=headers, timeout=20)

    # inside

    def _new(self, prefix: str, kind: str, **values: Any) -> Json:
        name = f"{prefix}_{secrets.token_hex(8)}"
        made = {"id": name, "object": kind, "created": int(time.time()), "livemode": self.livemode, **values}
        self.objects[name] = made
        return made

    def _submit(self, session_id: str, status: str, presentment: Json | None = None) -> Json:
        session = self.objects[session_id]
        if session["status"] != "open":
            raise ValueError(f"the page is {session['status']}: nobody can pay on it")
        buyer = {"email": session["customer_email"] or "buyer@example.test", "name": "Jenny Rosen"}
        intent = self._new(
            "pi", "payment_intent", amount=session["amount_total"], amount_received=0, currency=session["currency"],
            metadata=self._intent_metadata[session_id], customer=None, cancellation_reason=None,
            client_secret=f"pi_secret_{secrets.token_hex(8)}", presentment_details=presentment,
        )  # fmt: skip
        charge = self._new(
            "ch", "charge", amount=intent["amount"], amount_refunded=0, refunded=False, disputed=False,
            currency=intent["currency"], payment_intent=intent["id"], metadata=dict(intent["metadata"]), customer=None,
            billing_details=buyer, payment_method_details={"card": {"last4": "4242"}},
        )  # fmt: skip
        intent["latest_charge"] = charge["id"]
        session.update(
            status="complete",
            url=None,
            payment_intent=intent["id"],
            customer_details=buyer,
            presentment_details=presentment,
        )
        self._move_intent(session, status)
        return session

    def _move_intent(self, session: Json, status: str) -> None:
        intent = self.objects[session["payment_intent"]]
        charge = {"succeeded": "succeeded", "processing": "pending"}.get(status, "failed")
        intent.update(status=status, amount_received=intent["amount"] if status == "succeeded" else 0)
        self.objects[intent["latest_charge"]].update(status=charge)

    def _send(self, session: Json, *kinds: str) -> list[Json]:
        intent = self.objects.get(session["payment_intent"] or "", {})
        charge = self.objects.get(intent.get("latest_charge", ""), {})
        subjects = {"checkout": session, "payment_intent": intent, "charge": charge}
        return [self.event(kind, subjects[kind.partition(".")[0]]) for kind in kinds]

    def event(self, kind: str, subject: Json) -> Json:
        """An event about an object as it is now."""
        event = {
            "id": f"evt_{secrets.token_hex(10)}", "object": "event", "api_version": API_VERSION, "type": kind,
            "created": int(time.time()), "livemode": self.livemode, "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None}, "data": {"object": json.loads(json.dumps(subject))},
        }  # fmt: skip
        self.events.append(event)
        return event


def taken_from(charge: Json) -> Json:
    """What a refund or a dispute says about its charge; its metadata is its own."""
    return {name: charge[name] for name in ("currency", "payment_intent")} | {"charge": charge["id"], "metadata": {}}
