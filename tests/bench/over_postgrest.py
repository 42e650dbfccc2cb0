"""The bridge on its other path, supabase-py over PostgREST, behind what a gateway does to a request:
``python -m tests.bench.over_postgrest PORT``."""

from __future__ import annotations

import sys

import httpx
import uvicorn

from bridge.api import app, create_app
from bridge.api.server import SERVER_OPTIONS
from bridge.logs import configure
from bridge.rpc import Rpc, SupabaseTransport
from bridge.settings import Settings, load_settings
from tests.support.postgrest import AsyncGateway, Keys

__all__ = ["main"]


async def _connect(settings: Settings) -> Rpc:
    http = httpx.AsyncClient(transport=AsyncGateway(Keys()), timeout=10.0)
    transport = await SupabaseTransport.connect(settings, http=http)
    return Rpc(transport, outcomes_per_call=settings.outcomes_per_call)


def main() -> None:
    """Serve until stopped."""
    settings = load_settings()
    configure(settings)
    app.connect_rpc = _connect  # type: ignore[attr-defined] # it builds the same client, with another connection
    uvicorn.run(create_app(settings), port=int(sys.argv[1]), **SERVER_OPTIONS)


if __name__ == "__main__":
    main()
