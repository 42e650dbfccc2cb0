"""The benchmark runs, and its tables have what the documentation says."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.scenarios import SCENARIOS
from tests.support.database import REPOSITORY


def test_a_quick_benchmark_measures_every_scenario() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.run", "--quick", "--clients", "2"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [scenario.name for scenario in SCENARIOS]
    # vacuum and checkpoints write meanwhile: that a repeated call writes nothing, tests/sql/test_wal.py shows
    written = {row[0].removeprefix("| "): int(row[4].replace(",", "")) for row in rows}
    assert written["create"] > 200
