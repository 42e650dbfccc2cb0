"""The bridge and the worker as processes that kill themselves at a chosen step. Production code knows nothing of it.

``python -m tests.support.crashing_bridge`` imports everything once. Each line on its standard input then is a JSON
object ``{"command": [...], "environment": {...}}``; it forks a process for it and answers its id. That makes a restart
cheap, and every process starts as fresh as one of its own: nothing is open, nothing is known.

The environment of a process names the step at which it is killed (``CRASH_AT``), and a file to which each step that it
reaches is written (``STEPS_FILE``). A step is named for what comes next: the call of a database function, a
``provider-request``, the ``answer``; or it is ``answered``. The second of a kind ends in ``:2``. To be killed after
something is to be killed before the next step: between two steps a process does nothing that anybody can see.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import traceback
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge import cli, worker
from bridge.api import app as api
from bridge.cli import common
from bridge.providers.http import TIMEOUT
from bridge.rpc import PostgresTransport, Rpc
from bridge.settings import Settings, load_settings

HURRY = 0.02  # of the worker's usual pace
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Steps:
    """Counts the steps of this process, and ends it at one."""

    def __init__(self) -> None:
        self._fatal = os.environ.get("CRASH_AT")
        self._file = Path(os.environ["STEPS_FILE"])
        self._reached: Counter[str] = Counter()

    def reach(self, step: str) -> None:
        """Return, unless this is the step at which the process is killed."""
        self._reached[step] += 1
        times = self._reached[step]
        name = step if times == 1 else f"{step}:{times}"
        with self._file.open("a") as file:
            file.write(name + "\n")
        if name == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class MarkedTransport:
    """The real way to the database; each call is a step."""

    def __init__(self, real: PostgresTransport, steps: Steps) -> None:
        self._real = real
        self._steps = steps

    async def call(self, function: str, arguments: Any) -> Any:
        self._steps.reach(function)
        return await self._real.call(function, arguments)

    def listen(self) -> AsyncGenerator[str, None]:
        return self._real.listen()

    async def close(self) -> None:
        await self._real.close()


class MarkedApp:
    """The real bridge; each request ends in two steps."""

    def __init__(self, real: ASGIApp, steps: Steps) -> None:
        self._real = real
        self._steps = steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._steps.reach("answer")
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._steps.reach("answered")

        if scope["type"] != "http":
            await self._real(scope, receive, send)
            return
        await self._real(scope, receive, answer)


def mark(steps: Steps) -> None:
    """From now on what this process builds is marked."""

    async def connect_rpc(settings: Settings) -> Rpc:
        transport = MarkedTransport(await PostgresTransport.connect(settings), steps)
        return Rpc(transport, outcomes_per_call=settings.outcomes_per_call)

    def marked_client() -> httpx.AsyncClient:
        async def before(_: httpx.Request) -> None:
            steps.reach("provider-request")

        # loading the certificate authorities would take most of the time of a start, and all here is plain HTTP
        return httpx.AsyncClient(
            timeout=TIMEOUT, follow_redirects=False, verify=_NO_TLS, event_hooks={"request": [before]}
        )

    for module in (api, common):
        vars(module).update(connect_rpc=connect_rpc, new_client=marked_client)


def serve(port: int) -> None:
    """The bridge, as ``pgcheckout serve`` serves it."""
    steps = Steps()
    mark(steps)
    app = MarkedApp(api.create_app(load_settings(_env_file=None), watching=False), steps)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", ws="none", proxy_headers=False, lifespan="on")


def work(name: str) -> None:
    """``pgcheckout work``, in a hurry."""
    mark(Steps())
    worker.EVERY_SECONDS.update({job: seconds * HURRY for job, seconds in worker.EVERY_SECONDS.items()})
    sys.argv = ["pgcheckout", "work", "--name", name]
    cli.main()


def run(order: dict[str, Any]) -> None:
    """What a forked process does."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.environ.update(order["environment"])
    os.chdir(Path(os.environ["STEPS_FILE"]).parent)  # away from a developer's .env
    match order["command"]:
        case ["serve", str(port)]:
            serve(int(port))
        case ["work", str(name)]:
            work(name)


def main() -> None:
    """Fork a process for each line; when the tests end, so do all of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead vanish, so that their ids tell who is alive
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            try:
                run(json.loads(line))
            except Exception:  # noqa: BLE001 # nothing above may run twice
                traceback.print_exc()
            finally:
                os._exit(1)
        print(process, flush=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
