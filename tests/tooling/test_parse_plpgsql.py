from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.parse_plpgsql import syntax_errors

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
create function payments.twice(p_session public.payment_checkout_sessions, p_move payments.move) returns bigint
language plpgsql as $$ begin {} end; $$;
"""


def test_a_sound_body_has_no_errors(tmp_path: Path) -> None:
    (tmp_path / "twice.sql").write_text(FUNCTION.format("return p_session.amount * 2;"))
    assert list(syntax_errors(tmp_path)) == []


@pytest.mark.parametrize("body", ["return 2 *;", "iff true then return 1; end if;", "select 1 frm x y z;"])
def test_a_slip_inside_a_body_is_found(tmp_path: Path, body: str) -> None:
    (tmp_path / "twice.sql").write_text(FUNCTION.format(body))
    (error,) = syntax_errors(tmp_path)
    assert "twice.sql: syntax error" in error
