"""What a call came to: its answer, or the reason why it was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["answer_or_reason"]


def answer_or_reason(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call it; a refusal of the engine becomes its reason, any other error stays an error."""
    try:
        return function(*arguments, **named)
    except psycopg.Error as error:
        if not str(error.sqlstate).startswith("PT"):
            raise
        return error.diag.message_detail
