"""Reads every line that is logged while the tests run, as an installation would log it.

Each record of each logger goes through the formatter of ``bridge.logs``. The run fails when a line then still shows a
secret, a token, the address of a person or the number of a card.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import pytest
from pydantic import SecretStr

from bridge.logs import formatter, keep_addresses_private
from bridge.redaction import Redactor, secrets_of
from bridge.settings import Settings
from tests.support.postgrest import PUBLISHABLE, SECRET, Keys

__all__ = ["SCANNER", "Scanner", "pytest_configure", "pytest_sessionfinish"]

_SHAPES = {
    "a token": re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}"),
    "an address": re.compile(r"[\w.+-]+(?:@|%40)(?:[\w-]+\.)*(?:example\.(?:test|com|org)|shop\.test)"),
    "a card": re.compile(r"(?<!\w)(?:4242[ -]?4242[ -]?4242[ -]?4242|5555[ -]?5555[ -]?5555[ -]?4444|378282246310005)"),
    "a provider's key": re.compile(r"\b(?:[sr]k_(?:live|test)_|whsec_)\w"),
    "a password": re.compile(r"://[^/\s:]+:[^@/\s]+@|PassP=[^\[]"),
}


class Scanner(logging.Handler):
    """``found`` lists what was seen, the line that showed it and the test that ran then."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.found: list[str] = []
        self.lines = 0
        self._known = {Keys().shared_secret, SECRET} - {PUBLISHABLE}
        self._redacted: set[str] = set()
        self.setFormatter(formatter(Redactor()))

    def emit(self, record: logging.LogRecord) -> None:
        self.read(self.format(record))

    def read(self, text: str) -> None:
        """Look through lines that were logged here, or by another process."""
        for line in text.splitlines():
            self.lines += 1
            seen = [what for what, shape in _SHAPES.items() if shape.search(line)]
            seen += ["a secret setting" for secret in self._known if secret in line]
            if seen:
                test = os.environ.get("PYTEST_CURRENT_TEST", "between tests")
                self.found.append(f"{', '.join(seen)} in the log of {test}: {line}")

    def learn(self, settings: Settings) -> None:
        """These settings are in use: the formatter is told as ``bridge.logs.configure`` tells it, and the values are
        looked for."""
        for value in vars(settings).values():
            parts = value if isinstance(value, tuple) else (value,)
            texts = {part.get_secret_value() for part in parts if isinstance(part, SecretStr)}
            # a secret that is a mere word cannot be told from the word
            self._known |= {text for text in texts if len(text) > 5 and not text.isalpha() and "@127.0.0.1" not in text}
        secrets = self._redacted | secrets_of(settings)
        if secrets != self._redacted:
            self._redacted = secrets
            self.setFormatter(formatter(Redactor(secrets)))


SCANNER = Scanner()


def pytest_configure() -> None:
    """Read along from now on, at the level at which installations log."""
    keep_addresses_private()
    root = logging.getLogger()
    root.addHandler(SCANNER)
    root.setLevel(logging.INFO)
    load = Settings.__init__

    def load_and_tell(self: Settings, **values: Any) -> None:
        load(self, **values)
        SCANNER.learn(self)

    Settings.__init__ = load_and_tell  # type: ignore[method-assign] # whoever loads them


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when something was found, and show it."""
    if SCANNER.found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and SCANNER.found:
        reporter.section("private things in the log", red=True)
        for line in SCANNER.found[:50]:
            reporter.write_line(line)
