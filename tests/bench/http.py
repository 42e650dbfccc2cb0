"""The webhook path over HTTP against its floors: ``python -m tests.bench.http`` (needs wrk, ``apt-get install wrk``).

One bridge process with eight connections to a durable Postgres receives signed Stripe webhooks; beside it, in the
same rounds, a hello-world on the same server and pgbench of the same function. wrk keeps eight connections busy.
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

from bridge.simulators.stripe_world import StripeWorld, sign
from tests.bench.run import Bench
from tests.bench.scenarios import SCENARIOS

__all__ = ["main"]

SECONDS = 2
WEBHOOKS = 8_000  # more than can be handled in that time
ROUNDS = 3
CONNECTIONS = 8
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
    """A process under load."""

    def __init__(self, command: list[str], port: int, **environment: str) -> None:
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

    def load(self, path: str, lines: list[str]) -> Load:
        with tempfile.TemporaryDirectory() as folder:
            requests, script = Path(folder, "requests"), Path(folder, "wrk.lua")
            requests.write_text("\n".join(lines) + "\n")
            script.write_text(SCRIPT % (requests, path))
            before = self._cpu_seconds()
            done = subprocess.run(
                ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(script), self.url],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            used = self._cpu_seconds() - before
        count = int(re.findall(r"(\d+) requests in", done)[0])
        if "Non-2xx" in done or "Socket errors" in done or (count > len(lines) and len(lines) > 1):
            sys.exit(f"{path} was refused, or ran out of webhooks:\n{done}")
        return Load(
            float(re.findall(r"Requests/sec:\s+([\d.]+)", done)[0]),
            re.findall(r"50%\s+(\S+)", done)[0],
            re.findall(r"99%\s+(\S+)", done)[0],
            used / count * 1e6,
        )

    def memory(self) -> float:
        """Megabytes that it holds."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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
    lines = [_webhook(world, reference) for (reference,) in rows]
    repeats = [lines[n % fresh] for n in range(WEBHOOKS - fresh)]
    # each duplicate comes some time after the first
    return sorted(lines + repeats, key=lambda line: hash(line) % fresh) if repeats else lines


def _webhook(world: StripeWorld, reference: str) -> str:
    named = {"pgcheckout_reference": reference}
    session = world.create_session({
        "line_items": {"0": {"price_data": {"unit_amount": "500", "currency": "usd"}}}, "success_url": "https://shop.test",
        "client_reference_id": reference, "metadata": named, "payment_intent_data": {"metadata": named},
    })  # fmt: skip
    body = json.dumps(world.pay(session["id"])[-1])
    return f"{sign(body.encode(), world.webhook_secret)}\t{body}"


@contextlib.contextmanager
def servers(bench: Bench, world: StripeWorld) -> Iterator[dict[str, Server]]:
    """hello-world and the bridge, one process each."""
    flags = ["--log-level", "warning", "--no-access-log"]
    started = {
        "hello-world": Server(
            [sys.executable, "-m", "uvicorn", "tests.bench.hello:app", "--port", "18080", *flags], 18080
        ),
        "bridge": Server(
            [str(Path(sys.executable).with_name("pgcheckout")), "serve", "--port", "18081"], 18081,
            PGCHECKOUT_DATABASE_URL=bench.server.url("bench"), PGCHECKOUT_DATABASE_POOL_SIZE=str(CONNECTIONS),
            PGCHECKOUT_STRIPE_SECRET_KEY=world.secret_key, PGCHECKOUT_STRIPE_WEBHOOK_SECRETS=world.webhook_secret,
            PGCHECKOUT_ENVIRONMENT="development", PGCHECKOUT_JWT_SECRET="x" * 32,
        ),
    }  # fmt: skip
    try:
        yield started
    finally:
        for server in started.values():
            server.stop()


def main() -> None:
    """Measure and print."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing. Remedy: apt-get install wrk")
    world = StripeWorld()
    bench = Bench(int(os.environ.get("PG", "18")))
    outcome = next(scenario for scenario in SCENARIOS if scenario.name == "outcome")
    results: dict[str, list[Load]] = {}
    sql: list[float] = []
    try:
        with servers(bench, world) as started:
            first = 1
            for number in range(ROUNDS + 1):
                hello = started["hello-world"].load("/", ["x\t{}"])
                loads = {"hello-world": hello}
                for duplicates in (0.0, 0.5, 0.9):
                    lines = webhooks(world, bench, first, duplicates)
                    first += WEBHOOKS
                    loads[f"webhook, {duplicates:.0%} duplicates"] = started["bridge"].load("/webhooks/stripe", lines)
                block = {"next_first": first, "next_last": first + WEBHOOKS - 1}
                for statement in filter(None, outcome.before.format(first=0, last=0, **block).split(";")):
                    bench.database.execute(statement.encode())
                pure = bench.run(outcome, CONNECTIONS, WEBHOOKS // CONNECTIONS, first).calls_per_second
                first += WEBHOOKS
                if number:
                    sql.append(pure)
                    for name, load in loads.items():
                        results.setdefault(name, []).append(load)
            print("| | requests/s | p50 | p99 | CPU per request | of pgbench |\n|---|---|---|---|---|---|")
            for name, loads_ in results.items():
                rate = statistics.median(load.per_second for load in loads_)
                cpu = statistics.median(load.cpu_microseconds for load in loads_)
                ratio = statistics.median(load.per_second / pure for load, pure in zip(loads_, sql, strict=True))
                print(f"| {name} | {rate:,.0f} | {loads_[0].p50} | {loads_[0].p99} | {cpu:,.0f} µs | {ratio:.2f} |")
            print(f"| the same function by pgbench | {statistics.median(sql):,.0f} | | | | 1.00 |")
            bridge = started["bridge"]
            print(f"\nThe bridge starts in {bridge.seconds_to_start:.2f} s and holds {bridge.memory():.0f} MB.")
    finally:
        bench.close()


if __name__ == "__main__":
    main()
