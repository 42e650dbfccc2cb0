"""Every provider, in a process that lives on when the bridge is killed, and a shop that sells through all of them."""

from __future__ import annotations

from typing import Any

from bridge.simulators.base import Simulator
from bridge.simulators.click import ClickSimulator
from bridge.simulators.hypay import HyPaySimulator
from bridge.simulators.paypal import PayPalSimulator
from bridge.simulators.paystack import PaystackSimulator
from bridge.simulators.sandbox import SandboxSimulator
from bridge.simulators.stripe import StripeSimulator
from tests.providers.life import ADMIN_TOKEN, CREDITS, PRICE
from tests.support.bridge import KEYS
from tests.support.database import Database

__all__ = ["ACCOUNTS", "Accounts", "settings_for", "stocked"]

Accounts = dict[type[Simulator], Simulator]


ACCOUNTS: tuple[type[Simulator], ...] = (
    StripeSimulator, PaystackSimulator, ClickSimulator, HyPaySimulator, PayPalSimulator, SandboxSimulator,
)  # fmt: skip


def stocked(db: Database) -> Database:
    """Sell something in every provider's currency."""
    currencies = {account.currency for account in ACCOUNTS}
    db.new_product("conformance", "credits", {"credits": CREDITS}, **dict.fromkeys(currencies, PRICE))
    db.sql("update payments.settings set providers = %s", [account.name for account in ACCOUNTS])
    return db


def settings_for(accounts: Accounts, database_url: str) -> dict[str, Any]:
    """Settings of a bridge with every provider on."""
    settings: dict[str, Any] = {
        "environment": "development",
        "public_url": "http://127.0.0.1:9",  # nobody is there: the tests deliver
        "success_url": "https://app.test/thanks",
        "cancel_url": "https://app.test/cart",
        "database_url": database_url,
        "jwt_secret": KEYS.shared_secret,
        "admin_token": ADMIN_TOKEN,
    }
    for account in accounts.values():
        settings |= account.settings()
    return settings
