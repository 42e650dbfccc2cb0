"""The command ``pgcheckout``: a table of commands (``app.py``), and one file per group of them."""

from __future__ import annotations

from bridge.cli.app import app, main

__all__ = ["app", "main"]
