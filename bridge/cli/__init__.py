"""The command ``pgcheckout``: a table of commands (``app.py``), and one file per group of them."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    # the processes of `serve --workers` load this module, too, and run no command
    from bridge.cli.app import run  # noqa: PLC0415

    run()
