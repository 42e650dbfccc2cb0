"""Every route keeps to its own description, asked as it says and as it does not: no 5xx, nothing undocumented."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

OPERATOR = "the-admin-token-of-these-tests"
EXAMPLES = 12
# ids that exist, and a job that is quick
PARAMETERS = """
[parameters]
"path.session_id" = "{session_id}"
"path.provider" = "sandbox"
"path.name" = "expire"
"""


@pytest.fixture
def bridge(db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
    with running_bridge(
        db, stripe, admin_token=OPERATOR, metrics_token=OPERATOR, default_provider="sandbox"
    ) as running:
        yield running


@pytest.mark.parametrize("caller", ["buyer", "operator"])
def test_every_route_keeps_to_its_description(bridge: Bridge, tmp_path: Path, caller: str) -> None:
    bridge.db.sql("update payments.settings set create_limit = 100000, verify_limit = 100000")
    buyer = bridge.buyer()
    session_id = buyer.checkout().json()["session_id"]
    token, paths = (OPERATOR, "^/(admin|metrics)") if caller == "operator" else (buyer.token, "^/(?!admin|metrics)")
    (tmp_path / "schemathesis.toml").write_text(PARAMETERS.format(session_id=session_id))
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{bridge.url}/openapi.json",
        "--header", f"Authorization: Bearer {token}", "--include-path-regex", paths,
        # what fits the description may still name what does not exist; and where two routes share a path, Starlette's
        # Allow has the methods of the first only
        "--checks", "all", "--exclude-checks", "positive_data_acceptance,allow_header_conformance",
        "--max-examples", str(EXAMPLES), "--generation-deterministic", "--continue-on-failure", "--no-shrink",
        "--no-color",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
