"""Payment providers, one adapter each, and the choice of those that the settings turn on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx

from bridge.providers.base import Provider
from bridge.providers.sandbox import Sandbox
from bridge.providers.stripe import Stripe
from bridge.settings import Settings

__all__ = ["Provider", "enabled_names", "enabled_providers"]

_ADAPTERS: Mapping[str, Callable[[Settings, httpx.AsyncClient], Provider]] = {"stripe": Stripe, "sandbox": Sandbox}


def enabled_names(settings: Settings) -> list[str]:
    """A provider is on when its secrets are set."""
    on = {
        "stripe": settings.stripe_secret_key and settings.stripe_webhook_secrets,
        "sandbox": settings.sandbox_secret,
    }
    return [name for name, secrets in on.items() if secrets]


def enabled_providers(settings: Settings, client: httpx.AsyncClient) -> Mapping[str, Provider]:
    """The adapters of the providers that are on."""
    return {name: _ADAPTERS[name](settings, client) for name in enabled_names(settings)}
