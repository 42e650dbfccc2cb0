"""Payment providers, one adapter each, and the choice of those that the settings turn on."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from bridge.providers.base import Provider
from bridge.providers.click import Click
from bridge.providers.hypay import HyPay
from bridge.providers.paypal import PayPal
from bridge.providers.paystack import Paystack
from bridge.providers.sandbox import Sandbox
from bridge.providers.stripe import Stripe
from bridge.settings import Settings

__all__ = ["ADAPTERS", "Provider", "enabled_names", "enabled_providers", "missing_settings"]

_ALL: tuple[type[Provider], ...] = (Stripe, Paystack, Click, HyPay, PayPal, Sandbox)
ADAPTERS: Mapping[str, type[Provider]] = {adapter.name: adapter for adapter in _ALL}


def enabled_names(settings: Settings) -> list[str]:
    """A provider is on when its settings are complete."""
    return [name for name in ADAPTERS if not missing_settings(settings, name)]


def missing_settings(settings: Settings, name: str) -> list[str]:
    """What must be set before a provider is on."""
    return [setting for setting in ADAPTERS[name].needs if not getattr(settings, setting)]


def enabled_providers(settings: Settings, client: httpx.AsyncClient) -> Mapping[str, Provider]:
    """The adapters of the providers that are on."""
    return {name: ADAPTERS[name](settings, client) for name in enabled_names(settings)}
