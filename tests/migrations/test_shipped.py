from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.shipped import freeze, problems

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A history of two shipped migrations."""
    (tmp_path / "20260101000000_create_things.sql").write_text("create table things (id int);\n")
    (tmp_path / "20260102000000_add_colours.sql").write_text("alter table things add colour text;\n")
    freeze(tmp_path)
    return tmp_path


def test_shipped_migrations_are_as_they_were_shipped() -> None:
    assert problems() == []


def test_an_untouched_history_has_no_problems(migrations: Path) -> None:
    assert problems(migrations) == []


def test_a_missing_list_is_a_problem(migrations: Path) -> None:
    (migrations / "SHA256SUMS").unlink()
    assert problems(migrations) == ["SHA256SUMS is missing. Remedy: make freeze, and commit it"]


def test_a_changed_migration_is_a_problem_that_freezing_cannot_hide(migrations: Path) -> None:
    with (migrations / "20260101000000_create_things.sql").open("a") as file:
        file.write("-- a harmless remark\n")
    assert freeze(migrations) == []
    (problem,) = problems(migrations)
    assert problem.startswith("20260101000000_create_things.sql was shipped and has changed.")


def test_a_removed_migration_is_a_problem(migrations: Path) -> None:
    (migrations / "20260102000000_add_colours.sql").unlink()
    (problem,) = problems(migrations)
    assert problem.startswith("20260102000000_add_colours.sql was shipped and is gone.")


def test_a_new_migration_is_a_problem_until_it_is_frozen(migrations: Path) -> None:
    (migrations / "20260103000000_add_sizes.sql").write_text("alter table things add size int;\n")
    (problem,) = problems(migrations)
    assert problem.startswith("20260103000000_add_sizes.sql is not listed.")
    assert freeze(migrations) == ["20260103000000_add_sizes.sql"]
    assert problems(migrations) == []


def test_a_migration_that_sorts_before_a_shipped_one_is_a_problem(migrations: Path) -> None:
    (migrations / "20251231000000_add_late_idea.sql").write_text("select 1;\n")
    freeze(migrations)
    assert problems(migrations) == ["SHA256SUMS is not in the order of the migrations"]


def test_a_badly_named_migration_is_a_problem(migrations: Path) -> None:
    (migrations / "99_Stuff.sql").write_text("select 1;\n")
    freeze(migrations)
    assert "99_Stuff.sql is not named <UTC yyyymmddHHMMSS>_<verb_object>.sql" in problems(migrations)


def test_sha256sum_reads_the_list(migrations: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=migrations, check=True)
