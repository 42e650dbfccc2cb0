"""The benchmarks run, and what all clients fight over is right afterwards. CI runs `make bench QUICK=1` by itself."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.contention import SCENES
from tests.bench.costs import MEASURED
from tests.bench.growth import SHOWN
from tests.support.database import REPOSITORY


def rows(module: str, *arguments: str) -> set[str]:
    """The names of what was measured: the first cells of the tables that a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--quick", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines()}


def test_every_call_is_measured_in_a_filled_shop() -> None:
    assert set(SHOWN) <= rows("tests.bench.growth", "--sizes", "600")


def test_what_many_clients_want_at_once_is_given_as_often_as_there_is_of_it_and_nobody_deadlocks() -> None:
    # each scene looks at the rows that it leaves, and fails the run when they are not what they must be
    assert {scene.name for scene in SCENES} <= rows("tests.bench.contention", "--clients", "16")


def test_every_page_of_the_dashboard_is_measured_in_a_filled_shop() -> None:
    assert {"floor: /healthz", "overview, 7 days", "a session", "reviews"} <= rows("tests.bench.dashboard")


def test_what_calls_cost_is_told_by_function() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.costs", "--calls", "20"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(MEASURED) <= {line.split(":")[0] for line in done.stdout.splitlines()}
    assert "payments.fulfil_credits" in done.stdout
