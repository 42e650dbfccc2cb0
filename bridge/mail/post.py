"""Sending a letter by SMTP, over TLS wherever the server is not on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import aiosmtplib

from bridge.errors import MailRefused, SetupError
from bridge.settings import Settings

__all__ = ["Post"]

TIMEOUT_SECONDS = 30.0
GREETING_SECONDS = 10.0  # somebody waits for it
_HERE = ("localhost", "127.0.0.1", "::1")


class Post:
    """The mail server of the settings."""

    def __init__(self, settings: Settings) -> None:
        if settings.smtp_url is None:
            raise SetupError("PGCHECKOUT_SMTP_URL is not set.")
        parts = urlsplit(settings.smtp_url.get_secret_value())
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None

    def _connection(self) -> dict[str, Any]:
        return {
            "hostname": self._host,
            "port": self._port,
            "username": self._user,
            "password": self._password,
            "use_tls": self._tls,
            # None: where it is offered
            "start_tls": None if self._tls or self._host in _HERE else True,
        }

    async def greet(self) -> None:
        """Log in and say goodbye. Raises MailRefused."""
        with _in_our_words():
            async with aiosmtplib.SMTP(**self._connection(), timeout=GREETING_SECONDS):
                pass

    async def send(self, message: EmailMessage) -> None:
        """Hand one letter over. Raises MailRefused, which names neither addresses nor credentials."""
        with _in_our_words():
            await aiosmtplib.send(message, **self._connection(), timeout=TIMEOUT_SECONDS)


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = {str(refused.code) for refused in error.recipients}
        raise MailRefused(f"The mail server refused the recipient ({', '.join(sorted(codes))}).") from None
    except aiosmtplib.SMTPResponseException as error:
        raise MailRefused(f"The mail server answered {error.code}.") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise MailRefused(f"The mail server cannot be reached ({type(error).__name__}).") from None
