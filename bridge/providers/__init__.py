"""Payment providers, one adapter each, and the choice of those that the settings turn on."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from bridge.providers.base import Provider
from bridge.providers.sandbox import Sandbox
from bridge.providers.stripe import Stripe
from bridge.settings import Settings

__all__ = ["Provider", "enabled_providers"]


def enabled_providers(settings: Settings, client: httpx.AsyncClient) -> Mapping[str, Provider]:
    """A provider is on when its secrets are set."""
    providers: dict[str, Provider] = {}
    if settings.stripe_secret_key and settings.stripe_webhook_secrets:
        providers["stripe"] = Stripe(settings, client)
    if settings.sandbox_secret:
        providers["sandbox"] = Sandbox(settings, client)
    return providers
