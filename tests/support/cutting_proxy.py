"""A line between the bridge and its database that breaks at a chosen query."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import Literal, NamedTuple, Self

__all__ = ["Break", "CuttingProxy"]

Break = Literal["half of the query", "the query", "the answer"]
"""What the line breaks in: half of the query arrives; or all of it, and nobody waits for it; or all of it, and it is
worked on, but its answer is lost."""
_CALL = re.compile(rb'public\."(\w+)"\(|/rpc/(\w+)')


class _Line(NamedTuple):
    """One connection; ``mute`` once its next answer must not arrive."""

    client: socket.socket
    server: socket.socket
    mute: threading.Event


class CuttingProxy:
    """Passes TCP on to ``port`` of this machine. Use as a context manager; ``port`` is then where to connect to.

    It reads the names of the functions that are called (Postgres with unprepared statements, or PostgREST).
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._cut: tuple[int, Break] | None = None
        self.calls: list[str] = []
        """The functions that were called since the last ``arm``."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def arm(self, number: int | None = None, how: Break = "the answer") -> None:
        """Count from here, and break the line at this call (the first is 0); only at that one."""
        with self._lock:
            self.calls = []
            self._cut = None if number is None else (number, how)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            line = _Line(client, socket.create_connection(("127.0.0.1", self._target)), threading.Event())
            threading.Thread(target=self._requests, args=(line,), daemon=True).start()
            threading.Thread(target=self._answers, args=(line,), daemon=True).start()

    def _requests(self, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while chunk := line.client.recv(1 << 20):
                how = self._fate(chunk)
                if how == "the answer":
                    line.mute.set()
                line.server.sendall(chunk[: len(chunk) // 2] if how == "half of the query" else chunk)
                if how in ("the query", "half of the query"):
                    break
        _close(line)

    @staticmethod
    def _answers(line: _Line) -> None:
        with contextlib.suppress(OSError):
            while (chunk := line.server.recv(1 << 20)) and not line.mute.is_set():
                line.client.sendall(chunk)
        _close(line)

    def _fate(self, chunk: bytes) -> Break | None:
        found = _CALL.search(chunk)
        if not found:
            return None
        with self._lock:
            self.calls.append((found[1] or found[2]).decode())
            if self._cut and self._cut[0] == len(self.calls) - 1:
                return self._cut[1]
        return None


def _close(line: _Line) -> None:
    for end in (line.client, line.server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
