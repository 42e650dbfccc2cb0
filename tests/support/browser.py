"""A real browser, and what is wrong with a page in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from bridge.local.postgres import LocalPostgres
from tests.support.parts import path_of

__all__ = ["PATIENCE_MS", "running_browser", "survey"]

PATIENCE_MS = 15_000
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
_SURVEY = Path(__file__).with_name("survey.js").read_text("utf-8")


@contextlib.contextmanager
def running_browser(server: LocalPostgres) -> Iterator[Browser]:
    """Chromium, for tests that said they need it."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path_of("chromium", server),
            args=_FLAGS,
            # real visitors have it: pressing Back brings a page back as they left it
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield browser
        browser.close()


def survey(page: Page, question: str) -> list[str]:
    """Ask ``survey.js`` about the page as it is; it answers with what is wrong."""
    found = page.evaluate(f"() => {{ {_SURVEY}; return {question}(); }}")
    assert isinstance(found, list)
    return found
