"""Files for the folder of whoever runs pgcheckout: never over one that is there, all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bridge.errors import SetupError

__all__ = ["is_open_to_git", "write_missing", "write_new"]


def write_new(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file that is not there yet. Raises SetupError."""
    try:
        # exclusive: does not follow a link either
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise SetupError(
            f"{file} is there already, and was left as it is.", "Move it away, or do it in another folder."
        ) from None
    except OSError as error:
        raise _cannot(file, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()
        raise _cannot(file, error) from None


def write_missing(texts: Mapping[Path, str]) -> list[Path]:
    """Write those that are not there yet, and return them. Raises SetupError, before the first, when one differs."""
    missing = [file for file in texts if not file.exists()]
    for file, text in texts.items():
        if file not in missing and not _holds(file, text):
            raise SetupError(f"{file} is there already, and differs: nothing was written.", "Move it away first.")
    for file in missing:
        with contextlib.suppress(OSError):  # writing will say why
            file.parent.mkdir(parents=True, exist_ok=True)
        write_new(file, texts[file])
    return missing


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False


def is_open_to_git(file: Path) -> bool:
    """Whether the file lies in a work tree of git that does not ignore it."""
    git = shutil.which("git")
    if git is None:
        return False
    command = [git, "-C", str(file.absolute().parent), "check-ignore", "--quiet", "--", file.name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 1  # noqa: S603 # 128: no work tree


def _cannot(file: Path, error: OSError) -> SetupError:
    return SetupError(f"{file} cannot be written: {error.strerror}.", "Do it in a folder of yours.")
