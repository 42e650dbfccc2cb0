"""What can be seen in the settings alone: names, their file, addresses, secrets of providers, who is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from pydantic_settings import DotEnvSettingsSource

from bridge.doctor.finding import Finding
from bridge.providers import ADAPTERS, enabled_names, missing_settings
from bridge.settings import ENV_FILE, Settings

__all__ = ["look_at_settings"]

_FIRST_PROVIDER = "Set PGCHECKOUT_STRIPE_SECRET_KEY and PGCHECKOUT_STRIPE_WEBHOOK_SECRETS, or those of another one."
_STRIPE_KEY = "Set PGCHECKOUT_STRIPE_SECRET_KEY to the one that starts with sk_ or rk_."


def look_at_settings(settings: Settings) -> Iterator[Finding]:
    """Findings that need nobody's answer."""
    yield from _names()
    yield from _file()
    yield from _addresses(settings)
    yield from _providers(settings)
    yield from _operator(settings)


def _names() -> Iterator[Finding]:
    known = {f"PGCHECKOUT_{name.upper()}" for name in Settings.model_fields}
    written = {name.upper() for name in DotEnvSettingsSource(Settings).env_vars}
    for name in sorted(written | set(os.environ)):
        if name.startswith("PGCHECKOUT_") and name not in known:
            meant = get_close_matches(name, known, 1)
            remove = f"Remove it from {ENV_FILE}." if name in written else f"Remove it: `unset {name}`."
            remedy = f"Did you mean {meant[0]}?" if meant else remove
            yield Finding("warning", "settings", f"{name} is not a setting.", remedy)


def _file() -> Iterator[Finding]:
    """Who can change it decides where money goes; who can read it has the secrets."""
    file = Path(ENV_FILE)
    if not file.is_file():
        return
    others = file.stat().st_mode & 0o006
    if others & 0o002:
        yield Finding("error", ENV_FILE, "Everybody on this machine can change it.", f"Run `chmod 600 {ENV_FILE}`.")
    elif others:
        yield Finding("warning", ENV_FILE, "Everybody on this machine can read it.", f"Run `chmod 600 {ENV_FILE}`.")
    else:
        yield Finding("ok", ENV_FILE, "is read, and the environment wins")


def _addresses(settings: Settings) -> Iterator[Finding]:
    production = settings.environment == "production"
    for name in ("public_url", "success_url", "cancel_url"):
        url = getattr(settings, name)
        if production and (url.scheme != "https" or url.host in ("127.0.0.1", "localhost")):
            remedy = f"Set PGCHECKOUT_{name.upper()} to the public https address."
            yield Finding("error", name, f"{url} cannot be reached from outside.", remedy)
        else:
            yield Finding("ok", name, str(url))


def _providers(settings: Settings) -> Iterator[Finding]:
    half_set = False
    for name, adapter in ADAPTERS.items():
        missing = [f"PGCHECKOUT_{setting.upper()}" for setting in missing_settings(settings, name)]
        if missing and len(missing) < len(adapter.needs):
            half_set = True
            names, are = " and ".join(missing), "are" if missing[1:] else "is"
            yield Finding("error", name, f"{names} {are} missing, so {adapter.title} is off.", f"Set {names}.")
        elif not missing:
            yield from _stripe(settings) if name == "stripe" else [_switched_on(name, settings)]
    on = enabled_names(settings)
    if not on and not half_set:
        yield Finding("error", "providers", "No payment provider is on.", _FIRST_PROVIDER)
    elif on and settings.default_provider not in on:
        remedy = "Turn it on, or set PGCHECKOUT_DEFAULT_PROVIDER to one that is."
        yield Finding("error", "providers", f"The default provider {settings.default_provider} is off.", remedy)


def _switched_on(name: str, settings: Settings) -> Finding:
    """Play money in production pays for real goods: where the settings show the mode, it must fit."""
    if name == "paystack":
        return _mode(
            name, settings, live=not settings.paystack_secret_keys[0].get_secret_value().startswith("sk_test_")
        )
    if name == "hypay":  # live terminals start with another digit than 0
        return _mode(name, settings, live=not str(settings.hypay_terminal).startswith("0"))
    return Finding("ok", name, "on")


def _stripe(settings: Settings) -> Iterator[Finding]:
    key = settings.stripe_secret_key.get_secret_value() if settings.stripe_secret_key else ""
    if not key.startswith(("sk_test_", "sk_live_", "rk_test_", "rk_live_")):
        yield Finding("error", "stripe", "The API key has not the form of one.", _STRIPE_KEY)
    if any(not secret.get_secret_value().startswith("whsec_") for secret in settings.stripe_webhook_secrets):
        remedy = "PGCHECKOUT_STRIPE_WEBHOOK_SECRETS holds the endpoint's signing secret, whsec_…"
        yield Finding("error", "stripe", "A webhook secret has not the form of one.", remedy)
    yield _mode("stripe", settings, live="_live_" in key)


def _mode(name: str, settings: Settings, *, live: bool) -> Finding:
    odd = live != (settings.environment == "production")
    mode, other = ("live", "production") if live else ("test", "development")
    remedy = f"Set other keys, or PGCHECKOUT_ENVIRONMENT={other}." if odd else ""
    return Finding("warning" if odd else "ok", name, f"on, {mode} mode, {settings.environment}", remedy)


def _operator(settings: Settings) -> Iterator[Finding]:
    if settings.environment == "production" and not (settings.operator_email or settings.operator_webhook):
        remedy = "Set PGCHECKOUT_OPERATOR_WEBHOOK, or PGCHECKOUT_OPERATOR_EMAIL and PGCHECKOUT_SMTP_URL."
        yield Finding("warning", "alerts", "Incidents are written to the log, and nobody is told.", remedy)
