"""The command line explains itself: examples, suggestions, errors of one sentence, completion by real shells."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from bridge.cli.app import app_of
from tests.support.command import environment, run

COMMANDS: dict[str, Any] = get_command(app_of()).commands  # type: ignore[attr-defined] # of a Group


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_takes(name: str) -> None:
    title, *examples = COMMANDS[name].epilog.split("\n\n")
    assert title == "Examples:"
    assert examples
    for example in examples:
        first, _, second = example.partition(" && ")
        for line in filter(None, (first, second)):
            words = shlex.split(line.partition(" > ")[0])
            assert words[0] == "pgcheckout"
            assert name in example
            COMMANDS[words[1]].make_context(words[1], words[2:])  # raises when a word is wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_them(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, name, "--help")
    assert done.code == 0
    for example in COMMANDS[name].epilog.split("\n\n"):
        assert example in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["sesions"], "sessions"), (["reconsile"], "reconcile"), (["report", "--day", "3"], "--days"),
        (["sessions", "--reviews"], "--review"), (["sessions", "--status", "paid"], "partially_refunded"),
        (["sessions", "--since", "2 days"], "Write 90m, 36h or 2d."), (["refund", "5"], "UUID"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_was_meant(words: list[str], suggested: str, tmp_path: Path) -> None:
    done = run(tmp_path, *words)
    assert done.code == 2
    assert suggested in " ".join(re.sub("[│╭╮╰╯─]", " ", done.err).split())
    assert "Traceback" not in done.err


# demo and simulate bring their database along; serve and work go on until it is back (tests/bridge)
READERS = {
    "migrate": [], "report": [], "sessions": [], "session": [str(uuid.uuid4())], "verify": [str(uuid.uuid4())],
    "reconcile": [], "refund": [str(uuid.uuid4())], "replay": [],
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_without_a_database_there_is_one_sentence(name: str, tmp_path: Path) -> None:
    away = run(tmp_path, name, *READERS[name], database_url="postgresql://postgres:hunter2@127.0.0.1:1/shop")
    assert away.code == 2
    assert away.err.startswith("pgcheckout: The database at 127.0.0.1:1 cannot be reached: Connection refused. Check")
    assert len(away.err.splitlines()) == 1
    assert "hunter2" not in away.out + away.err
    unset = run(tmp_path, name, *READERS[name])
    assert unset.code == 1
    assert "PGCHECKOUT_DATABASE_URL" in unset.err
    assert len(unset.err.splitlines()) == 1


def test_over_http_there_is_one_sentence_too(tmp_path: Path) -> None:
    done = run(tmp_path, "report", supabase_url="http://127.0.0.1:1", supabase_service_key="key-of-the-service")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "does not answer" in done.err


BASH = """
source <(_PGCHECKOUT_COMPLETE=source_bash pgcheckout)
function=$(complete -p pgcheckout | sed 's/.*-F \\([^ ]*\\).*/\\1/')
while read -r line; do
    COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    $function pgcheckout
    echo "${COMPREPLY[*]}"
done
"""
COMPLETED = {
    "pgcheckout se": "serve session sessions",
    "pgcheckout sessions --status pa": "partially_refunded",
    "pgcheckout reconcile --provider pay": "paystack paypal",
}


def test_bash_completes(tmp_path: Path) -> None:
    inherited = environment({}) | {"PATH": f"{_program().parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", BASH], input="\n".join(COMPLETED) + "\n", env=inherited, cwd=tmp_path, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert dict(zip(COMPLETED, map(sorted, map(str.split, done.stdout.splitlines())), strict=True)) == {
        line: sorted(words.split()) for line, words in COMPLETED.items()
    }


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_asks_the_same(shell: str, tmp_path: Path) -> None:
    source = environment({}) | {"_PGCHECKOUT_COMPLETE": f"source_{shell}"}
    script = subprocess.run([_program()], env=source, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"_PGCHECKOUT_COMPLETE=complete_{shell}" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
    asked = environment({}) | {
        "_PGCHECKOUT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "pgcheckout sess",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    answer = subprocess.run([_program()], env=asked, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "sessions" in answer
    assert "replay" not in answer


def _program() -> Path:
    return Path(sys.executable).with_name("pgcheckout")
