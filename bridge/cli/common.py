"""What several commands share: settings, the way to the database, kinds of options."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import typer

from bridge.checkout import Checkout
from bridge.logs import configure
from bridge.progress import read_duration
from bridge.providers import ADAPTERS, enabled_providers
from bridge.providers.http import new_client
from bridge.rpc import Rpc, connect_rpc
from bridge.rpc.reach import reach
from bridge.settings import Settings, load_settings

__all__ = ["DURATION", "duration", "open_checkout", "open_rpc", "provider_names", "read_settings"]

DURATION = "2d"  # what stands for one in a help text


def read_settings(**overrides: object) -> Settings:
    """The settings, with logging as they want it. Raises SetupError."""
    settings = load_settings(**overrides)
    configure(settings)
    return settings


@contextlib.asynccontextmanager
async def open_rpc(settings: Settings, *, patient: bool = False) -> AsyncIterator[Rpc]:
    """The database's functions. Raises SetupError, and DatabaseUnavailable at once where nobody is ``patient``."""
    if not patient:
        await reach(settings)
    rpc = await connect_rpc(settings)
    try:
        yield rpc
    finally:
        await rpc.close()


@contextlib.asynccontextmanager
async def open_checkout(settings: Settings, *, patient: bool = False) -> AsyncIterator[tuple[Rpc, Checkout]]:
    """The same with the providers that are on."""
    async with open_rpc(settings, patient=patient) as rpc, new_client() as client:
        yield rpc, Checkout(rpc, enabled_providers(settings, client))


def duration(text: str) -> timedelta:
    """An option's value such as ``2d``."""
    try:
        return read_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def provider_names(begun: str) -> list[str]:
    """For the shell: providers whose name begins like this."""
    return [name for name in ADAPTERS if name.startswith(begun)]
