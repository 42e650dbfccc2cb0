from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from tests.support.parts import check_needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.local.postgres import LocalPostgres


class _ItemThatNeedsChromium:
    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        yield getattr(pytest.mark, name)("chromium").mark


ITEM = cast("pytest.Item", _ItemThatNeedsChromium())


@pytest.fixture(autouse=True)
def nothing_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.delenv("REQUIRED_PARTS", raising=False)


def test_a_test_whose_part_is_missing_is_skipped_with_the_remedy(server: LocalPostgres) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"chromium is missing\. Remedy: make parts"):
        check_needs(ITEM, server)


def test_a_test_whose_required_part_is_missing_fails(server: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRED_PARTS", "postgrest, chromium")
    with pytest.raises(pytest.fail.Exception, match="chromium is missing"):
        check_needs(ITEM, server)


def test_requiring_a_part_that_nobody_knows_fails(server: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRED_PARTS", "chrome")
    with pytest.raises(pytest.fail.Exception, match="unknown parts: chrome"):
        check_needs(ITEM, server)
