"""`pgcheckout init` writes every setting there is, for its owner's eyes, and never over what is there."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from bridge.cli import setting_up
from bridge.errors import SetupError
from bridge.init import FILES, env_text, file_text, write_new
from bridge.init import env_file as written_by
from bridge.providers import ADAPTERS, enabled_names
from bridge.settings import Settings, load_settings
from tests.support.command import run
from tests.support.schema import MIGRATIONS

FIELDS = set(Settings.model_fields)
OWN_SECRETS = {"admin_token", "metrics_token", "link_secret"}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIELDS:
        monkeypatch.delenv(f"PGCHECKOUT_{name.upper()}", raising=False)


def settings_of(file: Path) -> Settings:
    return load_settings(_env_file=file)


def set_in(text: str) -> dict[str, str]:
    return {name.lower(): value for name, value in re.findall(r"^PGCHECKOUT_(\w+)=(.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("providers", [["stripe"], ["paypal", "hypay"], list(ADAPTERS)], ids="+".join)
def test_every_setting_is_there_once_with_its_meaning(providers: list[str]) -> None:
    said = dict[str, str]()
    comment: list[str] = []
    for line in env_text(providers).splitlines():
        if found := re.match(r"#?PGCHECKOUT_(\w+)=", line):
            assert found[1].lower() not in said
            said[found[1].lower()] = " ".join(comment)
        comment = [*comment, line.removeprefix("# ")] if line.startswith("# ") else []
    assert set(said) == FIELDS
    for name, meaning in said.items():
        assert meaning.startswith(str(Settings.model_fields[name].description)), name


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    text = env_text(["stripe"])
    file, all_of_it = tmp_path / "file", tmp_path / "all"
    file.write_text(text, "utf-8")
    all_of_it.write_text(re.sub("^#PGCHECKOUT_", "PGCHECKOUT_", text, flags=re.MULTILINE), "utf-8")
    assert settings_of(all_of_it) == settings_of(file)
    differing = {
        name for name in FIELDS if getattr(settings_of(file), name) != getattr(load_settings(_env_file=None), name)
    }
    assert differing == OWN_SECRETS


def test_what_must_be_filled_in_is_empty_and_comes_first() -> None:
    values = set_in(env_text(["stripe", "hypay"]))
    empty = [name for name, value in values.items() if value == ""]
    assert empty == [
        "public_url", "success_url", "cancel_url", "database_url", "supabase_url",
        *ADAPTERS["stripe"].needs, *ADAPTERS["hypay"].needs,
    ]  # fmt: skip
    assert values["default_provider"] == "stripe"
    assert set(values) == {*empty, "default_provider", *OWN_SECRETS}


def test_secrets_are_long_and_new_each_time() -> None:
    one, other = set_in(env_text(["sandbox"])), set_in(env_text(["sandbox"]))
    for name in (*OWN_SECRETS, "sandbox_secret"):
        assert re.fullmatch("[0-9a-f]{64}", one[name])
    assert not {one[name] for name in (*OWN_SECRETS, "sandbox_secret")} & set(other.values())


def test_each_provider_is_explained_with_the_address_that_its_page_has() -> None:
    folder = Path(__file__).parents[2] / "docs"
    assert set(written_by._WHERE) == set(ADAPTERS)
    for name in set(ADAPTERS) - {"sandbox"}:
        hint = " ".join(written_by._WHERE[name])
        path, page = re.findall(r"PUBLIC_URL(/[\w/]+)", hint)[0], hint.rpartition("/docs/")[2]
        assert f"<public url>{path}`" in (folder / page).read_text("utf-8")


def test_the_sandbox_is_ready_to_be_tried(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(env_text(["sandbox"]), "utf-8")
    settings = settings_of(file)
    assert enabled_names(settings) == ["sandbox"]
    assert (settings.environment, settings.default_provider) == ("development", "sandbox")


def test_a_shell_reads_the_same(tmp_path: Path) -> None:
    text = env_text(["stripe"])
    (tmp_path / "env").write_text(text, "utf-8")
    script = "set -a; . ./env; env"
    done = subprocess.run(["sh", "-euc", script], env={}, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set_in(text).items() <= set_in(done.stdout).items()


def test_the_command_writes_it_for_its_owner_alone_and_never_twice(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        done = run(tmp_path, "init", "--provider", "paystack", "--provider", "paystack")
    finally:
        os.umask(before)
    file = tmp_path / ".env"
    assert (done.code, done.err) == (0, "")
    assert re.findall("^  (pgcheckout [a-z]+) ", done.out, re.MULTILINE) == [
        "pgcheckout migrate", "pgcheckout doctor", "pgcheckout serve", "pgcheckout work"
    ]  # fmt: skip
    assert file.stat().st_mode & 0o777 == 0o600
    assert "PGCHECKOUT_PAYSTACK_SECRET_KEYS=\n" in file.read_text("utf-8")
    assert not set(re.findall("[0-9a-f]{64}", file.read_text("utf-8"))) & set(re.findall("[0-9a-f]{64}", done.out))
    first = file.read_bytes()
    again = run(tmp_path, "init")
    assert (again.code, file.read_bytes()) == (1, first)
    assert again.err.startswith("pgcheckout: .env is there already, and was left as it is. Move it away")
    assert list(tmp_path.iterdir()) == [file]


def test_it_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / "elsewhere")
    assert run(tmp_path, "init").code == 1
    assert not (tmp_path / "elsewhere").exists()


def test_another_file_is_written_with_a_word_on_who_reads_it(tmp_path: Path) -> None:
    done = run(tmp_path, "init", "--file", "pay.env")
    assert done.code == 0
    assert (tmp_path / "pay.env").exists()
    assert "only a file that is called .env is read" in done.err
    nowhere = run(tmp_path, "init", "--file", "no/such/folder/.env")
    assert nowhere.err == (
        "pgcheckout: no/such/folder/.env cannot be written: No such file or directory. Do it in a folder of yours.\n"
    )


def test_what_cannot_be_written_in_full_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "init", "--file", "/dev/full/.env")
    assert "cannot be written: Not a directory" in done.err
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(SetupError, match="cannot be written: File too large"):
            write_new(tmp_path / "file", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_git_is_looked_at(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert "git does not ignore it. Remedy: echo .env >> .gitignore" in run(tmp_path, "init").err
    (tmp_path / ".env").unlink()
    (tmp_path / ".gitignore").write_text(".env\n", "utf-8")
    assert run(tmp_path, "init").err == ""


@pytest.mark.parametrize("what", FILES)
def test_other_files_are_written_all_or_none(what: str, tmp_path: Path) -> None:
    done = run(tmp_path, "init", what)
    assert done.code == 0
    assert {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()} == {
        name: file_text(name) for name in FILES[what]
    }
    assert "All is there already." in run(tmp_path, "init", what).out
    missing, changed = (tmp_path / name for name in FILES[what])
    missing.unlink()
    changed.write_text("mine", "utf-8")
    again = run(tmp_path, "init", what)
    assert (again.code, missing.exists(), changed.read_text("utf-8")) == (1, False, "mine")
    assert again.err.startswith(f"pgcheckout: {changed.name} is there already, and differs: nothing was written.")


def test_migrations_are_added_to_those_of_the_project(tmp_path: Path) -> None:
    folder = tmp_path / "supabase" / "migrations"
    shipped = {file.name: file.read_bytes() for file in MIGRATIONS.glob("*.sql")}
    assert run(tmp_path, "init", "migrations").out.count("Written: supabase/migrations/") == len(shipped)
    (folder / "20260101000000_mine.sql").write_text("select 1;", "utf-8")
    newest = folder / max(shipped)
    newest.unlink()  # as it is after an upgrade
    assert (
        f"Written: {newest.relative_to(tmp_path)}\nNext: supabase db push\n" == run(tmp_path, "init", "migrations").out
    )
    found = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert found.pop("20260101000000_mine.sql") == b"select 1;"
    assert found == shipped


def test_the_pages_it_points_to_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text("utf-8")
    headings = {heading.lower().replace(" ", "-") for heading in re.findall("^#+ (.+)$", page, re.MULTILINE)}
    assert set(re.findall(r"install\.md#([\w-]+)", " ".join(setting_up._AFTER.values()))) <= headings


def test_words_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    assert "not one of stripe, paystack" in " ".join(run(tmp_path, "init", "--provider", "strip").err.split())
    assert "are for the settings" in run(tmp_path, "init", "systemd", "--provider", "stripe").err
    assert run(tmp_path, "init", "kubernetes").code == 2
    assert list(tmp_path.iterdir()) == []
