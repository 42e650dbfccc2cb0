"""docs/getting-started.md, followed to the letter from an empty folder."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.database import REPOSITORY

PAGE = (REPOSITORY / "docs" / "getting-started.md").read_text("utf-8")
COMMANDS = Path(sys.executable).parent
# .ci/run installs the wheel in an environment of its own; here it is installed already
INSTALLING = ("python3 -m venv .venv", ". .venv/bin/activate", "pip install 'pgcheckout[demo]'")
SHOP, DATABASE = "http://127.0.0.1:8000", "postgresql://postgres@127.0.0.1:40123/demo"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def steps() -> list[tuple[str, str]]:
    """Each command of the page with what the reader is told to see."""
    parts = re.split(r"^\$ (.*)\n", "".join(blocks("console")), flags=re.MULTILINE)[1:]
    return [step for step in zip(parts[::2], parts[1::2], strict=True) if step[0] not in INSTALLING]


def looks_like(shown: str, printed: str) -> bool:
    """Whether it was printed as shown; … stands for anything."""
    pattern = r"\s+".join(re.escape(word).replace("…", "(.|\n)*") for word in shown.split())
    return re.search(pattern, printed) is not None


@pytest.fixture
def environment() -> dict[str, str]:
    return {"PATH": f"{COMMANDS}:/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONUNBUFFERED": "1", "COLUMNS": "160"}


@pytest.fixture
def opened(tmp_path: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The shop of step 3: what the page says -> what it is this time."""
    shown = dict(steps())["pgcheckout demo"]
    demo = subprocess.Popen(
        ["pgcheckout", "demo", "--port", "0"], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
        executable=COMMANDS / "pgcheckout",
    )  # fmt: skip
    try:
        assert demo.stdout
        printed = ""
        while "Ctrl-C" not in printed:
            line = demo.stdout.readline()
            assert line, printed
            printed += line
        shop, database = (re.findall(rf"{label}: +(\S+)", printed)[0] for label in ("open", "Database"))
        assert looks_like(shown.replace(SHOP, shop).replace(DATABASE, database), printed)
        yield {SHOP: shop, DATABASE: database}
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=30)


def test_each_step_shows_what_the_page_says(
    tmp_path: Path, environment: dict[str, str], opened: dict[str, str]
) -> None:
    def as_it_is(text: str) -> str:
        for said, this_time in opened.items():
            text = text.replace(said, this_time)
        return text

    (program,) = blocks("python")
    (tmp_path / "buy.py").write_text(as_it_is(program))
    assert [command for command, _ in steps()][:3] == ["pgcheckout demo --once", "pgcheckout demo", "python buy.py"]
    for command, shown in steps():
        if command == "pgcheckout demo":
            continue
        if name := re.fullmatch(r"export (\w+)=(\S+)", command):
            environment[name[1]] = as_it_is(name[2])
            continue
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert looks_like(shown, done.stdout), f"{command}\n{done.stdout}"
    with psycopg.connect(opened[DATABASE]) as connection:
        for query in blocks("sql"):
            assert connection.execute(query.encode()).fetchall() == []
    assert [file.name for file in tmp_path.iterdir()] == ["buy.py"]
