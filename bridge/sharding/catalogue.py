"""What the router must look like: read from the catalogue of a migrated shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from bridge.errors import SetupError

__all__ = ["Function", "read_functions", "row_type"]

_FUNCTIONS = """
select
    p.proname,
    coalesce(p.proargnames[1:p.pronargs], '{}'),
    array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, n) order by n),
    pg_get_function_arguments(p.oid),
    pg_get_function_result(p.oid),
    p.proretset,
    p.provolatile::text,
    coalesce(obj_description(p.oid, 'pg_proc'), ''),
    has_function_privilege('authenticated', p.oid, 'execute')
from pg_proc as p
where p.pronamespace = 'public'::regnamespace and p.proname = any(%s)
order by p.proname
"""

_COLUMNS = """
select string_agg(format('%%I %%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
from pg_attribute as a
where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of ``public`` as the catalogue describes it; ``declared`` are its arguments with their defaults."""

    name: str
    arguments: Sequence[str]
    types: Sequence[str]
    declared: str
    result: str
    is_set: bool
    volatility: str
    comment: str
    for_users: bool

    @property
    def signature(self) -> str:
        return f"public.{self.name}({', '.join(self.types)})"


def read_functions(connection: psycopg.Connection, names: Sequence[str]) -> list[Function]:
    """The functions of these names. Raises SetupError when one is missing or overloaded."""
    connection.execute("set search_path = ''")  # so that every name that is not Postgres's own comes with its schema
    found = [Function(*row) for row in connection.execute(_FUNCTIONS, (list(names),)).fetchall()]
    known = [function.name for function in found]
    if wrong := [name for name in names if known.count(name) != 1]:
        raise SetupError(
            f"The shard has not one function public.{wrong[0]}.", "Run `pgcheckout migrate` on each shard."
        )
    return found


def row_type(connection: psycopg.Connection, table: str) -> str:
    """The columns of a table and their types, as ``create type`` takes them."""
    row = connection.execute(_COLUMNS, (table,)).fetchone()
    return str(row[0]) if row else ""
