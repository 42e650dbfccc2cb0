"""The ``.env`` that ``pgcheckout init`` writes: every setting, with its meaning, made from ``bridge.settings``."""

from __future__ import annotations

import secrets
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from bridge import __version__
from bridge.providers import ADAPTERS
from bridge.settings import Settings

__all__ = ["DOCS", "env_text", "shown"]

DOCS = "https://github.com/pgcheckout/pgcheckout/blob/main/docs"

_WIDTH = 110

_HEAD = f"""\
# Settings of pgcheckout {__version__}, written by `pgcheckout init`. Read by pgcheckout in the folder where it runs;
# variables of the environment win. Also an EnvironmentFile of systemd, and an env_file of compose.
# It holds secrets: keep it out of git, and readable by you alone (chmod 600).
# A line is NAME=value. What has spaces, # or $ stands in 'single quotes'. Left empty, a setting is not set.
# More: {DOCS}/settings.md
"""

# what no installation works without, and where its owner finds it
_NEEDED = {
    "public_url": "The https address of the proxy in front of the bridge, such as https://pay.example.com",
    "success_url": "Such as https://app.example.com/thanks",
    "cancel_url": "Such as https://app.example.com/cart",
    "database_url": "Supabase dashboard: Connect, Direct connection; where there is no IPv6, Session pooler. Replace "
    "[YOUR-PASSWORD] (Database, Settings resets it); its special characters as %XX, @ as %40.",
    "supabase_url": "Supabase dashboard: Project Settings, Data API, Project URL. Where JWT Keys still shows the "
    "legacy secret in use, set PGCHECKOUT_JWT_SECRET below to it, too. Without Supabase: PGCHECKOUT_JWKS_URL.",
}

_WHERE = {
    "stripe": (
        "Stripe dashboard, Developers: API keys; and Webhooks, for an endpoint at PUBLIC_URL/webhooks/stripe.",
        f"Its events: {DOCS}/providers/stripe.md",
    ),
    "paystack": (
        "Paystack dashboard, Settings, API Keys & Webhooks. The Webhook URL there: PUBLIC_URL/webhooks/paystack.",
        f"More: {DOCS}/providers/paystack.md",
    ),
    "click": (
        "Click's merchant cabinet. The addresses of Prepare and of Complete there: PUBLIC_URL/webhooks/click.",
        f"More: {DOCS}/providers/click.md",
    ),
    "hypay": (
        "HyPay's portal, Settings, Terminal settings. Success and failure address there: PUBLIC_URL/return/hypay.",
        f"More: {DOCS}/providers/hypay.md",
    ),
    "paypal": (
        "PayPal developer dashboard, Apps & Credentials. The app's webhook there: PUBLIC_URL/webhooks/paypal.",
        f"Its events: {DOCS}/providers/paypal.md",
    ),
    "sandbox": ("Play money, for development: never in production.",),
}

_OWN_SECRETS = ("admin_token", "metrics_token", "link_secret")

_TITLES = {
    ("database", "supabase"): "Database",
    ("jwt", "jwks"): "Tokens of users",
    ("smtp", "mail", "operator", "link"): "Letters and alerts",
} | {(name,): adapter.title for name, adapter in ADAPTERS.items()}


def env_text(providers: Sequence[str]) -> str:
    """The file for these providers, of which the first is the default one; with new secrets each time."""
    values = _values(providers)
    asked = [name for name in ("environment", *_NEEDED, "default_provider") if name in values]
    blocks = [_HEAD, _title("Needed"), *(_block(name, values[name], _NEEDED.get(name, "")) for name in asked)]
    for provider in providers:
        blocks.append(_title(ADAPTERS[provider].title, *_WHERE[provider]))
        blocks += [_block(name, values[name]) for name in ADAPTERS[provider].needs]
    blocks.append(_title("Secrets of your own", "Made just now."))
    blocks += [_block(name, values[name]) for name in _OWN_SECRETS]
    blocks += _rest(values)
    return "\n".join(blocks)


def shown(default: object) -> str:
    """A default as one writes it into the environment."""
    if default is None or default == ():
        return ""
    if isinstance(default, tuple):
        return ",".join(str(part).removesuffix("/32") for part in default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _values(providers: Sequence[str]) -> Mapping[str, str]:
    """The settings that are not commented out."""
    values = {name: "" for provider in providers for name in ADAPTERS[provider].needs} | dict.fromkeys(_NEEDED, "")
    values |= {"default_provider": providers[0]} | {name: secrets.token_hex(32) for name in _OWN_SECRETS}
    if "sandbox" in providers:  # everything on this machine
        values |= {"environment": "development", "sandbox_secret": secrets.token_hex(32)}
        values |= {name: _default(name) for name in ("public_url", "success_url", "cancel_url")}
    return values


def _rest(values: Mapping[str, str]) -> Iterator[str]:
    """What the file does not set, commented out, with its default."""
    yield _title("All others, as they are by default")
    title = "The bridge"
    for name in Settings.model_fields:
        if name not in values:
            before, title = title, _titled(name)
            if title != before:
                yield _title(title)
            yield _block(name, None)


def _titled(name: str) -> str:
    family = name.partition("_")[0]
    return next((title for families, title in _TITLES.items() if family in families), "The bridge")


def _title(text: str, *more: str) -> str:
    return f"# ---- {text} {'-' * (_WIDTH - 8 - len(text))}\n" + "".join(map(_comment, more))


def _block(name: str, value: str | None, hint: str = "") -> str:
    """A setting with its meaning; commented out without a value."""
    variable = f"PGCHECKOUT_{name.upper()}"
    line = f"#{variable}={_default(name)}" if value is None else f"{variable}={value}"
    return _comment(f"{Settings.model_fields[name].description}") + (_comment(hint) if hint else "") + line + "\n"


def _comment(text: str) -> str:
    return (
        textwrap.fill(
            text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
        )
        + "\n"
    )


def _default(name: str) -> str:
    return shown(Settings.model_fields[name].default)
