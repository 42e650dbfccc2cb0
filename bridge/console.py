"""Where commands show things to people."""

from __future__ import annotations

from rich.console import Console

__all__ = ["console_for"]

_WIDTH = 116  # where it is not a terminal


def console_for(*, stderr: bool = False) -> Console:
    """A console; wide enough for the tables where it is not a terminal."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDTH, no_color=True)
