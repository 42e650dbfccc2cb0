"""The webhook path over HTTP against its floors: ``python -m tests.bench.http`` (needs wrk, ``apt-get install wrk``).

A bridge with eight connections to a durable Postgres receives signed Stripe webhooks: as one process, as two, and on
its other path, through PostgREST (``make parts``); with outcomes that share transactions, and with each by itself.
Beside it, in the same rounds, a hello-world on the same server, pgbench of the same function, and (where there is npm)
the Stripe Sync Engine, which mirrors one object of Stripe per webhook and does nothing else. wrk keeps eight
connections busy, or as many as a crowd.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from bridge.local.postgres import SUPERUSER
from bridge.simulators.stripe_world import StripeWorld, sign
from tests.bench.run import HERE, Bench
from tests.bench.scenarios import SCENARIOS
from tests.support import parts
from tests.support.postgrest import SECRET, Keys, postgrest

__all__ = ["main"]

SECONDS = 2
WEBHOOKS = 8_000  # more than can be handled in that time
ROUNDS = 3
CONNECTIONS = 8
CROWD = 64  # as after an outage, when a provider sends all that it could not deliver
# name of a row, server, share of duplicates, connections of wrk
ROWS = (
    ("webhook, 0% duplicates", "bridge", 0.0, CONNECTIONS),
    ("webhook, 50% duplicates", "bridge", 0.5, CONNECTIONS),
    ("webhook, 90% duplicates", "bridge", 0.9, CONNECTIONS),
    ("0% duplicates, each by itself", "each by itself", 0.0, CONNECTIONS),
    ("0% duplicates, from a crowd", "bridge", 0.0, CROWD),
    ("0% duplicates, from a crowd, each by itself", "each by itself", 0.0, CROWD),
    ("0% duplicates, 2 workers", "2 workers", 0.0, CONNECTIONS),
    ("0% duplicates, supabase-py over PostgREST", "over PostgREST", 0.0, CONNECTIONS),
    ("the same, each by itself", "over PostgREST, each by itself", 0.0, CONNECTIONS),
)
MIRROR = "Stripe Sync Engine"
MIRROR_VERSION = "0.48.5"
# sends the requests of a file, one after the other
SCRIPT = """
local requests, count, sent = {}, 0, 0
for line in io.lines("%s") do
    local signature, body = line:match("^(.-)\\t(.*)$")
    count = count + 1
    local headers = {["Host"] = "localhost", ["Stripe-Signature"] = signature, ["Content-Type"] = "application/json"}
    requests[count] = wrk.format("POST", "%s", headers, body)
end
function request()
    sent = sent + 1
    return requests[(sent - 1) %% count + 1]
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk measured, and the CPU time of the server per request."""

    per_second: float
    p50: str
    p99: str
    cpu_microseconds: float


class Server:
    """A process under load, and its workers."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str], workers: int = 1) -> None:
        self._workers = workers
        self.url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(self.url + "/healthz")
                break
            time.sleep(0.01)
        self.seconds_to_start = time.monotonic() - began
        while len(self._processes()) < workers:  # the first to answer need not be the last to start
            time.sleep(0.1)

    def load(self, path: str, lines: list[str], connections: int = CONNECTIONS) -> Load:
        with tempfile.TemporaryDirectory() as folder:
            requests, script = Path(folder, "requests"), Path(folder, "wrk.lua")
            requests.write_text("\n".join(lines) + "\n")
            script.write_text(SCRIPT % (requests, path))
            before = self._cpu_seconds()
            done = subprocess.run(
                ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(script), self.url],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            used = self._cpu_seconds() - before
        count = int(re.findall(r"(\d+) requests in", done)[0])
        if "Non-2xx" in done or "Socket errors" in done or (count > len(lines) and len(lines) > 1):
            sys.exit(f"{path} was refused, or ran out of webhooks:\n{done}")
        return Load(
            float(re.findall(r"Requests/sec:\s+([\d.]+)", done)[0]),
            re.findall(r"^ +50%\s+(\S+)", done, re.MULTILINE)[0],
            re.findall(r"^ +99%\s+(\S+)", done, re.MULTILINE)[0],
            used / count * 1e6,
        )

    def memory(self) -> float:
        """Megabytes that its largest process holds."""
        status = (Path(f"/proc/{pid}/status").read_text() for pid in self._processes())
        return max(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) for text in status) / 1024

    def _processes(self) -> list[int]:
        """Those that answer."""
        if self._workers == 1:
            return [self._process.pid]
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def _cpu_seconds(self) -> float:
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._processes())
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def webhooks(world: StripeWorld, bench: Bench, first: int, duplicates: float) -> list[str]:
    """Signed webhooks about purchases that wait for them; a share of them has been handled before."""
    fresh = int(WEBHOOKS * (1 - duplicates))
    bench.database.execute("call bench.add_users(%s, %s)", (first, first + fresh - 1))
    bench.database.execute("call bench.collect(%s, %s)", (first, first + fresh - 1))
    bench.database.execute("call bench.open_pages(%s, %s)", (first, first + fresh - 1))
    rows = bench.database.execute(
        "select p.reference from bench.purchases as p where p.n between %s and %s order by p.n",
        (first, first + fresh - 1),
    ).fetchall()
    lines = [_webhook(world, reference, "checkout.session.completed") for (reference,) in rows]
    repeats = [lines[n % fresh] for n in range(WEBHOOKS - fresh)]
    # each duplicate comes some time after the first
    return sorted(lines + repeats, key=lambda line: hash(line) % fresh) if repeats else lines


def _webhook(world: StripeWorld, reference: str, kind: str) -> str:
    named = {"pgcheckout_reference": reference}
    session = world.create_session({
        "line_items": {"0": {"price_data": {"unit_amount": "500", "currency": "usd"}}}, "success_url": "https://shop.test",
        "client_reference_id": reference, "metadata": named, "payment_intent_data": {"metadata": named},
    })  # fmt: skip
    body = json.dumps(next(event for event in world.pay(session["id"]) if event["type"] == kind))
    return f"{sign(body.encode(), world.webhook_secret)}\t{body}"


@contextlib.contextmanager
def servers(bench: Bench, world: StripeWorld) -> Iterator[dict[str, Server]]:
    """hello-world, the bridges, and the Stripe Sync Engine where it can be had."""
    account = {
        "PGCHECKOUT_STRIPE_SECRET_KEY": world.secret_key, "PGCHECKOUT_STRIPE_WEBHOOK_SECRETS": world.webhook_secret,
        "PGCHECKOUT_ENVIRONMENT": "development", "PGCHECKOUT_JWT_SECRET": "x" * 32,
    }  # fmt: skip
    direct = account | {"PGCHECKOUT_DATABASE_URL": bench.server.url("bench")}
    by_itself = {"PGCHECKOUT_OUTCOMES_PER_CALL": "1"}
    serve = [str(Path(sys.executable).with_name("pgcheckout")), "serve", "--port"]
    hello = [sys.executable, "-m", "uvicorn", "tests.bench.hello:app", "--log-level", "warning", "--no-access-log"]
    with contextlib.ExitStack() as stack:
        started: dict[str, Server] = {}

        def start(name: str, port: int, command: list[str], environment: dict[str, str], workers: int = 1) -> None:
            started[name] = Server(command, port, environment, workers)
            stack.callback(started[name].stop)

        start("hello-world", 18080, [*hello, "--port", "18080"], {})
        direct["PGCHECKOUT_DATABASE_POOL_SIZE"] = str(CONNECTIONS)
        start("bridge", 18081, [*serve, "18081"], direct)
        start("each by itself", 18085, [*serve, "18085"], direct | by_itself)
        half = direct | {"PGCHECKOUT_DATABASE_POOL_SIZE": str(CONNECTIONS // 2)}
        start("2 workers", 18082, [*serve, "18082", "--workers", "2"], half, 2)
        if binary := parts.find("postgrest", bench.server):
            database = bench.server.url("bench", "authenticator")
            url = stack.enter_context(postgrest(binary, database, Keys(), pool=CONNECTIONS))
            way = account | {"PGCHECKOUT_SUPABASE_URL": url, "PGCHECKOUT_SUPABASE_SERVICE_KEY": SECRET}
            over_postgrest = [sys.executable, "-m", "tests.bench.over_postgrest"]
            start("over PostgREST", 18083, [*over_postgrest, "18083"], way)
            start("over PostgREST, each by itself", 18086, [*over_postgrest, "18086"], way | by_itself)
        if shutil.which("npm"):
            modules = stack.enter_context(tempfile.TemporaryDirectory())
            package = f"@supabase/stripe-sync-engine@{MIRROR_VERSION}"
            subprocess.run(["npm", "install", "--prefix", modules, "--ignore-scripts", "--silent", package], check=True)
            settings = {
                "DATABASE_URL": bench.server.url("bench", SUPERUSER), "WEBHOOK_SECRET": world.webhook_secret,
                "MODULES": modules, "CONNECTIONS": str(CONNECTIONS), "NODE_ENV": "production",
            }  # fmt: skip
            start(MIRROR, 18084, ["node", str(HERE / "sync_engine.mjs"), "18084"], settings)
        yield started


class Rounds:
    """Rounds in which every server and pgbench have their turn."""

    def __init__(self, bench: Bench, world: StripeWorld, started: dict[str, Server]) -> None:
        self._bench = bench
        self._world = world
        self._started = started
        self._next = 1

    def play(self) -> tuple[dict[str, Load], float]:
        """What each row of the table did, and the calls per second of pgbench."""
        loads = {"hello-world": self._started["hello-world"].load("/", ["x\t{}"])}
        for name, server, duplicates, connections in ROWS:
            if server in self._started:
                lines = webhooks(self._world, self._bench, self._block(), duplicates)
                loads[name] = self._started[server].load("/webhooks/stripe", lines, connections)
        if MIRROR in self._started:
            first = self._block()
            lines = [_webhook(self._world, f"n{first + n}", "payment_intent.succeeded") for n in range(WEBHOOKS)]
            loads[MIRROR] = self._started[MIRROR].load("/webhooks", lines)
        return loads, self._pure()

    def _pure(self) -> float:
        outcome = next(scenario for scenario in SCENARIOS if scenario.name == "outcome")
        first = self._block()
        block = {"next_first": first, "next_last": first + WEBHOOKS - 1}
        for statement in filter(None, outcome.before.format(first=0, last=0, **block).split(";")):
            self._bench.database.execute(statement.encode())
        return self._bench.run(outcome, CONNECTIONS, WEBHOOKS // CONNECTIONS, first).calls_per_second

    def _block(self) -> int:
        """The first of as many purchases as a turn can use, which nobody has used before."""
        self._next += WEBHOOKS
        return self._next - WEBHOOKS


def table(results: dict[str, list[Load]], pure: list[float]) -> Iterator[str]:
    """Rows of Markdown: medians."""
    yield "| | requests/s | p50 | p99 | CPU per request | of hello-world | of pgbench |\n|---|---|---|---|---|---|---|"
    hello = [load.cpu_microseconds for load in results["hello-world"]]
    for name, loads in results.items():
        rate = statistics.median(load.per_second for load in loads)
        cpu = statistics.median(load.cpu_microseconds for load in loads)
        times = statistics.median(load.cpu_microseconds / floor for load, floor in zip(loads, hello, strict=True))
        ratio = statistics.median(load.per_second / calls for load, calls in zip(loads, pure, strict=True))
        middle = loads[len(loads) // 2]
        yield f"| {name} | {rate:,.0f} | {middle.p50} | {middle.p99} | {cpu:,.0f} µs | {times:.1f} | {ratio:.2f} |"
    yield f"| the same function by pgbench | {statistics.median(pure):,.0f} | | | | | 1.00 |"


def main() -> None:
    """Measure and print."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing. Remedy: apt-get install wrk")
    world = StripeWorld()
    bench = Bench(int(os.environ.get("PG", "18")))
    results: dict[str, list[Load]] = {}
    pure: list[float] = []
    try:
        with servers(bench, world) as started:
            rounds = Rounds(bench, world, started)
            rounds.play()  # warms up
            for _ in range(ROUNDS):
                loads, calls = rounds.play()
                pure.append(calls)
                for name, load in loads.items():
                    results.setdefault(name, []).append(load)
            print("\n".join(table(results, pure)), "\n")
            for name, server in started.items():
                print(f"{name} starts in {server.seconds_to_start:.2f} s and holds {server.memory():.0f} MB.")
            if MIRROR in results:
                pairs = zip(results["webhook, 0% duplicates"], results[MIRROR], strict=True)
                ratio = statistics.median(ours.per_second / theirs.per_second for ours, theirs in pairs)
                print(f"A webhook of the bridge for {1 / ratio:.2f} of the Stripe Sync Engine {MIRROR_VERSION}.")
            print(f"Load average meanwhile: {os.getloadavg()[1]:.1f}.")
    finally:
        bench.close()


if __name__ == "__main__":
    main()
