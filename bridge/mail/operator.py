"""Telling an operator, by mail, by a webhook of theirs, or by both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any

import httpx

from bridge.errors import MailRefused
from bridge.logs import keep_addresses_private
from bridge.mail.post import Post
from bridge.mail.writing import Writer
from bridge.rpc import Alert, Letter
from bridge.settings import Settings

__all__ = ["Operator"]

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_RUNBOOK = "docs/runbook.md says what to do."


class Operator:
    """Whoever looks after the shop."""

    def __init__(self, settings: Settings) -> None:
        self._writer = Writer(settings)
        self._post = Post(settings) if settings.smtp_url and settings.operator_email else None
        self._webhook = settings.operator_webhook.get_secret_value() if settings.operator_webhook else None
        # half told: while the other way is shut, this process does not repeat itself on the open one
        self._told: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def reachable(self) -> bool:
        """Whether there is any way; without one, the log is."""
        return bool(self._post or self._webhook)

    @property
    def has_webhook(self) -> bool:
        """Whether there is a way that needs no mail server."""
        return self._webhook is not None

    async def tell_alert(self, alert: Alert) -> bool:
        """Tell of an incident; False when there is no way. Raises MailRefused, SetupError; a repeat tells the rest."""
        said = {
            "text": f"pgcheckout: {alert.kind} ({alert.subject}). {alert.detail} {_RUNBOOK}",
            "kind": alert.kind,
            "subject": alert.subject,
            "opened_at": alert.opened_at,
        }
        return await self._tell(f"alert-{alert.number}", lambda: self._writer.write_alert(alert), said)

    async def tell_review(self, letter: Letter) -> bool:
        """The same of a session that needs a person."""
        reason = letter.payload["occurrence"]
        said = {
            "text": f"pgcheckout: a payment needs you, {reason} (session {letter.session_id}). docs/states.md "
            "says what to do.",
            "kind": "review",
            "subject": f"{letter.session_id} {reason}",
            "opened_at": letter.payload.get("opened_at"),
        }
        return await self._tell(f"review-{letter.number}", lambda: self._writer.write(letter), said)

    async def _tell(self, name: str, write: Callable[[], EmailMessage | None], said: Mapping[str, Any]) -> bool:
        if not self.reachable:
            return False
        told = self._told[name]
        trouble: MailRefused | None = None
        for way in ("webhook", "mail"):  # a template that cannot be used must not keep the webhook
            if way in told:
                continue
            try:
                await (self._call(said) if way == "webhook" else self._mail(write))
                told.add(way)
            except MailRefused as error:  # the other way may be open
                trouble = error
        if trouble:
            raise trouble
        del self._told[name]
        return True

    async def _mail(self, write: Callable[[], EmailMessage | None]) -> None:
        if self._post and (message := write()):
            await self._post.send(message)

    async def _call(self, said: Mapping[str, Any]) -> None:
        if self._webhook is None:
            return
        keep_addresses_private()
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client:
                response = await client.post(self._webhook, json=said)
        except httpx.HTTPError as error:  # the type only: the address is a secret
            raise MailRefused(f"The operator's webhook cannot be reached ({type(error).__name__}).") from None
        if not response.is_success:
            raise MailRefused(f"The operator's webhook answered HTTP {response.status_code}.")
