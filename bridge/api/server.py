"""How the bridge is served by uvicorn, whoever starts it."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["SERVER_OPTIONS", "PatientProtocol"]

IDLE_SECONDS = 5
REQUEST_SECONDS = 20.0


class PatientProtocol(H11Protocol):
    """HTTP/1.1 on one connection, with an end to the patience between requests: uvicorn itself waits for ever for the
    first line and the headers, and for the rest of a body that nobody will read."""

    _ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._wait_for_a_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_working():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_working():  # else the next request was here already
            self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _is_working(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_a_request(self) -> None:
        if self._ending is None:
            self._ending = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None


SERVER_OPTIONS: dict[str, Any] = {
    "http": PatientProtocol,
    "ws": "none",
    "timeout_keep_alive": IDLE_SECONDS,
    "server_header": False,
    "access_log": False,  # bridge.api.edge has one that shows no tokens
    "log_config": None,  # bridge.logs
    "proxy_headers": False,  # PGCHECKOUT_TRUSTED_PROXIES says whom to believe
}
