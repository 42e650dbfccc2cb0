"""Shipped migrations never change: ``SHA256SUMS`` beside them is the list that says so.

``python -m tests.support.shipped`` (``make freeze``) appends the migrations that are not listed yet.
The format is that of ``sha256sum``, so ``sha256sum --check SHA256SUMS`` reads it too.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.support.schema import MIGRATIONS

__all__ = ["freeze", "problems"]

_LIST = "SHA256SUMS"
_NAME = re.compile(r"^\d{14}_[a-z0-9]+(_[a-z0-9]+)+\.sql$")


def problems(migrations: Path = MIGRATIONS) -> list[str]:
    """What is wrong with the list or the files, each with its remedy; empty when all is well."""
    if not (migrations / _LIST).exists():
        return [f"{_LIST} is missing. Remedy: make freeze, and commit it"]
    listed = _listed(migrations)
    files = {file.name: file for file in migrations.glob("*.sql")}
    return [
        *(f"{name} was shipped and is gone. Remedy: restore it from git" for name in sorted(listed.keys() - files)),
        *(f"{name} is not listed. Remedy: make freeze, when it ships" for name in sorted(files.keys() - listed)),
        *(
            f"{name} was shipped and has changed. Remedy: restore it from git and write a new migration"
            for name in sorted(listed.keys() & files)
            if _digest(files[name]) != listed[name]
        ),
        *(
            f"{name} is not named <UTC yyyymmddHHMMSS>_<verb_object>.sql"
            for name in sorted(files)
            if not _NAME.match(name)
        ),
        *([f"{_LIST} is not in the order of the migrations"] if list(listed) != sorted(listed) else []),
    ]


def freeze(migrations: Path = MIGRATIONS) -> list[str]:
    """Append the migrations that are not listed; returns their names. Listed ones are never touched."""
    listed = _listed(migrations)
    new = [file for file in sorted(migrations.glob("*.sql")) if file.name not in listed]
    with (migrations / _LIST).open("a", encoding="utf-8") as out:
        out.writelines(f"{_digest(file)}  {file.name}\n" for file in new)
    return [file.name for file in new]


def _listed(migrations: Path) -> dict[str, str]:
    path = migrations / _LIST
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    for name in freeze():
        print(f"frozen: {name}")
    raise SystemExit("\n".join(problems()) or None)
