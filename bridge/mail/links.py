"""Links that bring a buyer back to an unpaid session. They show a session's id, nothing personal, and cannot be guessed
or changed."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import jwt

from bridge.errors import NotSignedIn, NotSupported
from bridge.settings import Settings

__all__ = ["ResumeLinks"]

_AUDIENCE = "pgcheckout-resume"


class ResumeLinks:
    """Makes and reads them; on when ``link_secret`` is set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.link_secret.get_secret_value() if settings.link_secret else None

    def make(self, session_id: UUID, expires_at: datetime) -> str | None:
        """A link that works until the session expires; None when links are off."""
        if self._secret is None:
            return None
        claims = {"sub": str(session_id), "aud": _AUDIENCE, "exp": expires_at}
        return self._settings.url(f"/resume/{jwt.encode(claims, self._secret, algorithm='HS256')}")

    def read(self, token: str) -> UUID:
        """The session of a link's token. Raises NotSignedIn, NotSupported."""
        if self._secret is None:
            raise NotSupported("Links of reminders are off.", "Set PGCHECKOUT_LINK_SECRET.")
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], audience=_AUDIENCE,
                options={"require": ["exp", "sub"]},
            )  # fmt: skip
            return UUID(claims["sub"])
        except (jwt.PyJWTError, ValueError):
            raise NotSignedIn("This link is not valid any more.", "Start again in the shop.") from None
