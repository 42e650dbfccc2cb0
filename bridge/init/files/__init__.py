"""Files that are written as they stand here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

__all__ = ["FILES", "file_text"]

FILES: Mapping[str, tuple[str, ...]] = {
    "systemd": ("pgcheckout.service", "pgcheckout-worker.service"),
    "container": ("Containerfile", "compose.yaml"),
}


def file_text(name: str) -> str:
    """One of them."""
    return files("bridge.init.files").joinpath(name).read_text("utf-8")
