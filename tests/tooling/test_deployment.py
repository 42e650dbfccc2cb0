"""The files that `pgcheckout init systemd` and `init container` write do what they say."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from typer.main import get_command

from bridge import __version__
from bridge.cli.app import app_of
from bridge.init import FILES, file_text
from tests.support.bridge import running_bridge
from tests.support.database import REPOSITORY, Database

COMMANDS: dict[str, Any] = get_command(app_of()).commands  # type: ignore[attr-defined] # of a Group


def takes(words: list[str]) -> bool:
    """Whether the command line is one; raises when a word is wrong."""
    return bool(COMMANDS[words[0]].make_context(words[0], words[1:]))


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's, with their continued lines joined."""
    text = re.sub(r"\\\n\s*", "", file_text("Containerfile"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def said(word: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == word]


class TestContainerfile:
    def test_both_stages_stand_on_one_pinned_python_that_is_new_enough(self) -> None:
        build, final = said("FROM")
        assert build == f"{final} AS build"
        found = re.fullmatch(r"docker\.io/library/python:(\d+)\.(\d+)-slim-\w+", final)
        assert found
        needed = re.search(r'requires-python = ">=(\d+)\.(\d+)"', (REPOSITORY / "pyproject.toml").read_text("utf-8"))
        assert needed
        assert tuple(map(int, found.groups())) >= tuple(map(int, needed.groups()))

    def test_nothing_of_the_folder_gets_in_and_no_setting(self) -> None:
        assert said("COPY") == ["--from=build /opt/pgcheckout /opt/pgcheckout"]
        assert said("ARG") == [f"PGCHECKOUT=pgcheckout=={__version__}"]
        assert "PGCHECKOUT_" not in " ".join(said("ENV"))
        assert {word for word, _ in instructions()} <= {
            "FROM", "ARG", "RUN", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"
        }  # fmt: skip

    def test_it_ends_as_a_user_without_rights(self) -> None:
        assert said("USER") == ["10001:10001"]
        words = [word for word, _ in instructions()]
        assert words.index("USER") > max(place for place, word in enumerate(words) if word in {"RUN", "COPY"})

    def test_it_runs_a_command_that_there_is_on_the_port_that_it_shows(self) -> None:
        (entry,), (command,), (port,) = said("ENTRYPOINT"), said("CMD"), said("EXPOSE")
        assert json.loads(entry) == ["pgcheckout"]
        assert takes(json.loads(command))
        assert json.loads(command)[-2:] == ["--port", port]
        assert "--host 0.0.0.0" in " ".join(json.loads(command))
        assert f"127.0.0.1:{port}/healthz" in said("HEALTHCHECK")[0]

    def test_what_it_installs_can_be_run(self, tmp_path: Path) -> None:
        wheel = tmp_path / "greeting-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("greeting.py", "def main(): print('good day')")
            for name, text in {
                "METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
                "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                "entry_points.txt": "[console_scripts]\ngreeting = greeting:main\n",
                "RECORD": "",
            }.items():
                archive.writestr(f"greeting-1.0.dist-info/{name}", text)
        (step,) = said("RUN")
        subprocess.run(
            ["sh", "-euc", step.replace("/opt/pgcheckout", str(tmp_path / "venv"))],
            env={"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PGCHECKOUT": str(wheel)}, check=True,
        )  # fmt: skip
        ran = subprocess.run([tmp_path / "venv/bin/greeting"], capture_output=True, text=True, check=True)
        assert ran.stdout == "good day\n"
        assert not (tmp_path / "venv/bin/pip").exists()

    def test_its_health_is_that_of_the_bridge(self, db: Database) -> None:
        check = json.loads(said("HEALTHCHECK")[0].partition("CMD ")[2])
        assert check.pop(0) == "python"
        with running_bridge(db) as bridge:
            command = [sys.executable, *(word.replace("127.0.0.1:8000", bridge.url[7:]) for word in check)]
            assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_compose_runs_commands_that_there_are_with_nothing_to_write_to() -> None:
    services = yaml.safe_load(file_text("compose.yaml"))["services"]
    assert set(services) == {"migrate", "serve", "work"}
    for name, service in services.items():
        assert service["image"] == f"pgcheckout:{__version__}"
        assert service["build"]["dockerfile"] in FILES["container"]
        assert service["env_file"] == ".env"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert takes(shlex.split(service.get("command", "serve")))
        # only the bridge listens where the image's health check asks
        assert ("healthcheck" in service) == (name != "serve")
        after = {"migrate": {"condition": "service_completed_successfully"}}
        assert service.get("depends_on", after) == after
        assert ("restart" in service) == ("depends_on" in service) == (name != "migrate")
    (port,) = services["serve"]["ports"]
    assert port == f"127.0.0.1:8000:{said('EXPOSE')[0]}"  # what is not behind a proxy is not public


def unit(name: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # keep the case of keys
    parser.read_string(file_text(name))
    return {section: dict(parser[section]) for section in parser.sections()}


def test_the_units_run_commands_that_there_are_and_differ_in_nothing_else() -> None:
    bridge, worker = map(unit, FILES["systemd"])
    for found, command in ((bridge, "serve"), (worker, "work")):
        program, *words = shlex.split(found["Service"].pop("ExecStart"))
        assert program == "/opt/pgcheckout/bin/pgcheckout"
        assert words[0] == command
        assert takes(words)
        assert found["Unit"].pop("Description")
    assert bridge == worker
    page = (REPOSITORY / "docs/install.md").read_text("utf-8")
    for place in ("/opt/pgcheckout", bridge["Service"]["EnvironmentFile"], *FILES["systemd"]):
        assert place in page


def test_the_page_for_administrators_has_no_command_that_there_is_not() -> None:
    page = (REPOSITORY / "docs/install.md").read_text("utf-8")
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)).splitlines()
    ours = [shlex.split(line)[1:] for line in lines if line.startswith("pgcheckout ")]
    inside = [line.partition("--rm serve ")[2].split() for line in lines if "--rm serve " in line]
    assert inside
    assert {words[0] for words in ours} == {"init", "migrate", "doctor"}
    assert all(map(takes, [*ours, *inside]))


@pytest.mark.needs("systemd")
def test_systemd_understands_every_line_and_calls_them_safe(tmp_path: Path) -> None:
    units = [tmp_path / name for name in FILES["systemd"]]
    for file in units:
        # it wants the program to be there
        file.write_text(file_text(file.name).replace("/opt/pgcheckout/bin/pgcheckout", sys.executable), "utf-8")
    done = _systemd_analyze("verify", "--recursive-errors=no", *map(str, units))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "pgcheckout" in line]) == (0, [])
    for file in units:
        judged = _systemd_analyze("security", "--offline=yes", "--threshold=15", str(file))
        assert judged.returncode == 0, judged.stdout
        assert re.search(r"exposure level for pgcheckout\S*: 1\.\d OK", judged.stdout)


def _systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    return subprocess.run(["systemd-analyze", *words], env=environment, capture_output=True, text=True, check=False)
