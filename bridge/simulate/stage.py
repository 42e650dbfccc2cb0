"""Bridges and workers as processes of their own, started again whenever they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from bridge.errors import SetupError
from bridge.settings import Settings
from bridge.simulate.database import APPLICATION, Database
from bridge.simulators.base import Simulator

__all__ = ["Keeper", "Stage", "standing"]

BRIDGES, WORKERS = 2, 2
_START_SECONDS = 60.0
_TRIES = 5
_PGCHECKOUT = (sys.executable, "-c", "from bridge.cli import main; main()")


class Keeper:
    """Runs one command and starts it again when it ends, until the keeper is told to stop."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._words = words
        self._environment = environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._killed = False
        self.fell_over = 0
        """How often it ended though nobody had killed it."""

    async def keep(self) -> None:
        """Start it again and again. Raises SetupError when it never lives for a second."""
        short_lives = 0
        try:
            while True:
                started = time.monotonic()
                with self._log.open("ab") as log:
                    self._process = await asyncio.create_subprocess_exec(
                        *_PGCHECKOUT, *self._words, env=self._environment, cwd="/",
                        stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    )  # fmt: skip
                await self._process.wait()
                self.fell_over += not self._killed
                short_lives = short_lives + 1 if time.monotonic() - started < 1 and not self._killed else 0
                if short_lives == _TRIES:
                    raise SetupError(f"`pgcheckout {self._words[0]}` does not start: {self.last_words()}")
                self._killed = False
        finally:
            await self._end()

    def kill(self) -> None:
        """kill -9."""
        if self._process and self._process.returncode is None:
            self._killed = True
            self._signal(signal.SIGKILL)

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text("utf-8", "replace")[-1500:] if self._log.exists() else ""

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class Stage:
    """Everything that runs: ``urls`` are the bridges, ``accounts`` the providers by name."""

    def __init__(
        self, database: Database, accounts: Mapping[str, Simulator], folder: Path, *, bridges: int, workers: int
    ) -> None:
        self.database = database
        self.accounts = accounts
        self.jwt_secret, self.admin_token = secrets.token_hex(32), secrets.token_hex(16)
        ports = [_free_port() for _ in range(bridges)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        environment = self._environment()
        self.bridges = [
            Keeper(("serve", "--port", str(port)), environment, folder / f"bridge-{port}.log") for port in ports
        ]
        self.workers = [
            Keeper(("work", "--name", f"simulation-{number}"), environment, folder / f"worker-{number}.log")
            for number in range(1, workers + 1)
        ]

    @property
    def fell_over(self) -> Counter[str]:
        """How often processes ended by themselves."""
        return Counter(
            bridge=sum(keeper.fell_over for keeper in self.bridges),
            worker=sum(keeper.fell_over for keeper in self.workers),
        )

    async def ready(self) -> None:
        """Wait until every bridge answers."""
        deadline = time.monotonic() + _START_SECONDS
        async with httpx.AsyncClient(timeout=5.0) as client:
            for url, bridge in zip(self.urls, self.bridges, strict=True):
                while not await _answers(client, url):
                    if time.monotonic() > deadline:
                        raise SetupError(f"The bridge does not start: {bridge.last_words()}")
                    await asyncio.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        settings: dict[str, Any] = {
            "environment": "development",
            "public_url": self.urls[0],
            "success_url": "https://shop.invalid/thanks",
            "cancel_url": "https://shop.invalid/cart",
            "database_url": self.database.url,
            "jwt_secret": self.jwt_secret,
            "admin_token": self.admin_token,
            "requests_per_minute": 0,  # all the world calls from one address here
        }
        for account in self.accounts.values():
            settings |= account.settings()
        own = {f"PGCHECKOUT_{name}".upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in own}
        ours = {f"PGCHECKOUT_{name.upper()}": str(value) for name, value in settings.items()}
        return inherited | {"PGAPPNAME": APPLICATION} | ours


@contextlib.asynccontextmanager
async def standing(
    database: Database,
    accounts: Mapping[str, Simulator],
    *,
    logs: Path | None = None,
    bridges: int = BRIDGES,
    workers: int = WORKERS,
) -> AsyncIterator[Stage]:
    """Serve the providers, start the processes, and leave nothing behind. ``logs``: a folder for what they write."""
    async with contextlib.AsyncExitStack() as stack:
        for account in accounts.values():
            await stack.enter_async_context(account.serving())
        folder = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgcheckout-simulate-")))
        stage = Stage(database, accounts, folder, bridges=bridges, workers=workers)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(keeper.keep()) for keeper in (*stage.bridges, *stage.workers)]
                try:
                    await stage.ready()
                    yield stage
                finally:
                    for task in tasks:
                        task.cancel()
        except ExceptionGroup as several:
            raise _first(several) from None


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/readyz")).is_success
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
