"""The command ``pgcheckout``, with no setting but those given."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bridge.cli import main
from bridge.settings import Settings
from tests.support.log_scanner import SCANNER

__all__ = ["Done", "arguments", "environment", "own_logging", "run"]


class Done(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """Variables for these settings, and none of this machine's own."""
    ours = {f"PGCHECKOUT_{name.upper()}" for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return inherited | {f"PGCHECKOUT_{name.upper()}": str(value) for name, value in settings.items()}


def arguments(*words: str) -> list[str]:
    """The command line, for tests that need a process of its own."""
    return [sys.executable, "-c", "from bridge.cli import main; main()", *words]


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """What configures logging in the block does not do so for the tests after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def run(folder: Path, *words: str, **settings: Any) -> Done:
    """Run it in an empty folder until it ends; in this process, which saves a second each time."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        own_logging(),
    ):
        patch.setattr(os, "environ", environment(settings))
        patch.setattr(sys, "argv", ["pgcheckout", *words])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    SCANNER.read(err.getvalue())
    return Done(code, out.getvalue(), err.getvalue())
