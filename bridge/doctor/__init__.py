"""Looks at an installation and says, for each finding, what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bridge.doctor.database import look_at_database
from bridge.doctor.finding import Finding
from bridge.doctor.services import look_at_functions, look_at_mail, look_at_tokens
from bridge.doctor.settings import look_at_settings
from bridge.settings import Settings

__all__ = ["Finding", "examine"]

# whoever cannot get in learns nothing from what only follows from it
_IN_THE_WAY = ("postgres", "role")


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Everything that can be checked from here."""
    for finding in look_at_settings(settings):
        yield finding
    yield await look_at_tokens(settings)
    if settings.smtp_url:
        yield await look_at_mail(settings)
    reached = True
    if settings.database_url:
        for finding in look_at_database(settings.database_url.get_secret_value(), settings.database_role):
            reached = reached and not (finding.subject in _IN_THE_WAY and finding.level == "error")
            yield finding
    if reached:
        async for finding in look_at_functions(settings):
            yield finding
