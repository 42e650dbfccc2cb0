"""``make lint``: parse the bodies of all PL/pgSQL functions, which other linters take for plain strings.

No server is needed: the parser is Postgres' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pglast

from tests.support.schema import MIGRATIONS, SOURCE

__all__ = ["syntax_errors"]


def syntax_errors(folder: Path) -> Iterator[str]:
    """``file: message`` for each function body that does not parse."""
    for file in sorted(folder.rglob("*.sql")):
        # the parser knows no schema but public, and looks nothing up in it
        for statement in pglast.split(file.read_text(encoding="utf-8").replace("payments.", "public.")):
            try:
                pglast.parse_plpgsql(statement)
            except pglast.parser.ParseError as error:
                yield f"{file}: {error}"


if __name__ == "__main__":
    raise SystemExit("\n".join(error for folder in (SOURCE, MIGRATIONS) for error in syntax_errors(folder)) or None)
