"""How the bridge is served by uvicorn, whoever starts it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["SERVER_OPTIONS", "PatientProtocol"]

IDLE_SECONDS = 5
REQUEST_SECONDS = 20.0
MOST_HEAD_BYTES = 65_536
MOST_WAITING = 16


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection, with an end to the patience: uvicorn itself waits for ever for the first line and the
    headers, and for the rest of a body that nobody will read; and its parser keeps headers of any length, and as many
    requests as are sent before the first one is answered."""

    _ending: asyncio.TimerHandle | None = None
    _unread = 0  # bytes since the request began, its headers ended, or a part of its body came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        connection: socket.socket = transport.get_extra_info("socket")
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only for listeners that it has made itself, not for one that workers share: an answer goes
            # out in two pieces, and the second would wait 40 ms until the caller has acknowledged the first
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_a_request()

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._is_working():
            self._stop_waiting()
        if self._unread > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MOST_WAITING:
            raise ValueError("too many requests at once")  # the parser stops here, and uvicorn hangs up
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()
        self.headers = []  # trailers come here: the application has what stood at the head

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

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
