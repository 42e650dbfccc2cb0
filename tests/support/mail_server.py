"""A real mail server that takes letters, refuses them, is slow, or drops the line."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
from collections import deque
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

__all__ = ["MailServer"]


class MailServer:
    """Use as a context manager. ``troubles`` are met one per letter: an answer to give, a number of seconds to wait
    after which the letter is taken, or ``drop``."""

    user, password = "shop", "p@ss w/rd"

    def __init__(self, *, login: bool = False) -> None:
        self.troubles: deque[str | float] = deque()
        self.letters: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        options: dict[str, Any] = (
            {"authenticator": self._authenticate, "auth_required": True, "auth_require_tls": False} if login else {}
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 # aiosmtpd's
        trouble = self.troubles.popleft() if self.troubles else ""
        if trouble == "drop":
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
            return ""
        if isinstance(trouble, float):
            await asyncio.sleep(trouble)
        elif trouble:
            return trouble
        assert isinstance(envelope.content, bytes)
        self.letters.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.recipients.append(envelope.rcpt_tos)
        return "250 OK"

    def _authenticate(self, *said: Any) -> AuthResult:
        data = said[-1]
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (
            self.user.encode(), self.password.encode(),
        )  # fmt: skip
        return AuthResult(success=good, handled=False)  # aiosmtpd says it
