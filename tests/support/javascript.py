"""JavaScript and TypeScript as app developers run them: Node with the npm packages of ``make parts``.

Node is the one inside Playwright, whose version is the same on every machine; supabase-js wants a newer one than Debian
has.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import playwright

from tests.support.parts import NODE_MODULES

__all__ = ["NODE", "format_types", "run_module", "type_check"]

NODE = Path(playwright.__file__).parent / "driver" / "node"


def run_module(folder: Path, code: str, given: Mapping[str, Any]) -> Any:
    """Run an ES module that finds supabase-js and ``given`` as global constants; what it passes to ``answer``, or None.

    Raises AssertionError with what Node said when the module throws, or prints a warning.
    """
    _link_packages(folder)
    prelude = "".join(f"globalThis.{name} = {json.dumps(value)};\n" for name, value in given.items())
    prelude += 'import { writeFileSync } from "node:fs";\n'
    prelude += 'globalThis.answer = (value) => writeFileSync("answer.json", JSON.stringify(value ?? null));\n'
    (folder / "answer.json").write_text("null")
    (folder / "module.mjs").write_text(code)
    # a client keeps timers and sockets, for which Node would wait
    (folder / "run.mjs").write_text(prelude + 'await import("./module.mjs");\nprocess.exit(0);\n')
    done = _run(folder, str(NODE), "run.mjs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", done.stderr
    return json.loads((folder / "answer.json").read_text())


def type_check(folder: Path, *files: str) -> list[str]:
    """The complaints of ``tsc --noEmit --strict`` about these files of the folder."""
    _link_packages(folder)
    # the declarations of supabase-js ask for Node's and do not pass TypeScript 7 themselves: skipLibCheck, as apps have
    options = "--noEmit --strict --skipLibCheck --target es2022 --module esnext --moduleResolution bundler"
    done = _run(folder, str(NODE), str(NODE_MODULES / "typescript" / "bin" / "tsc"), *options.split(), *files)
    assert done.stderr == "", done.stderr
    return done.stdout.splitlines()


def format_types(folder: Path, text: str) -> str:
    """TypeScript laid out by the formatter that the Supabase CLI recommends for its output."""
    (folder / "types.ts").write_text(text)
    done = _run(folder, str(NODE), str(NODE_MODULES / "oxfmt" / "bin" / "oxfmt"), "types.ts")
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "types.ts").read_text()


def _link_packages(folder: Path) -> None:
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(NODE_MODULES)


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
