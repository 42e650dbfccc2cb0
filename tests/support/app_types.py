"""Writes supabase/database.types.ts: what the migrations give to apps, as the Supabase CLI describes it.

``make types``. Functions and views that neither ``anon`` nor ``authenticated`` may use are dropped from a throw-away
database first, so a call that an app may not make does not compile.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg

from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate
from tests.support import supabase_cli
from tests.support.database import REPOSITORY
from tests.support.javascript import format_types
from tests.support.parts import path_of

__all__ = ["TYPES", "types_for_apps"]

TYPES = REPOSITORY / "supabase" / "database.types.ts"

_HEADER = """\
// What an app may read and call of pgcheckout, for createClient<Database>(…): tables, and the functions for signed-in
// users. Made from the migrations by the Supabase CLI (make types); do not edit. Your server, or an app with tables of
// its own: `supabase gen types` in your project describes everything.
"""

_DROP_WHAT_APPS_MAY_NOT_USE = """
do $$
declare
    v_statement text;
begin
    for v_statement in
        select pg_catalog.format('drop function %s cascade', p.oid::regprocedure)
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'public'::regnamespace
            and not pg_catalog.has_function_privilege('anon', p.oid, 'execute')
            and not pg_catalog.has_function_privilege('authenticated', p.oid, 'execute')
        union all
        select pg_catalog.format('drop view %s cascade', c.oid::regclass)
        from pg_catalog.pg_class as c
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'v'
            and not pg_catalog.has_table_privilege('anon', c.oid, 'select')
            and not pg_catalog.has_table_privilege('authenticated', c.oid, 'select')
    loop
        execute v_statement;
    end loop;
end;
$$
"""


def types_for_apps(cli: Path, database_url: str) -> str:
    """The text of the file, from a migrated database that may be spoilt."""
    with psycopg.connect(database_url) as connection:
        connection.execute(_DROP_WHAT_APPS_MAY_NOT_USE)
    with tempfile.TemporaryDirectory() as name:
        done = supabase_cli.run(cli, Path(name), "gen", "types", f"--remote={database_url}", "--schema", "public")
        assert done.returncode == 0, done.stderr
        return _HEADER + format_types(Path(name), done.stdout)


def _write() -> None:
    server = LocalPostgres(18)
    try:
        database_url = server.create_look_alike("types")
        migrate(database_url)
        TYPES.write_text(types_for_apps(path_of("supabase_cli", server), database_url), "utf-8")
    finally:
        server.stop()
    print(f"{TYPES.relative_to(REPOSITORY)} is written.")


if __name__ == "__main__":
    _write()
