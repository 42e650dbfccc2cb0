"""The reference pages of the documentation site, written from what runs: the catalogue of a migrated database and the
bridge's OpenAPI description. Nobody edits them, and they are not kept in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bridge.api import create_app
from bridge.settings import load_settings

__all__ = ["openapi", "reference_pages"]

_ROLES = {"anon": "anybody (`anon`)", "authenticated": "signed-in users", "service_role": "the service"}
_PRIVILEGES = {"SELECT": "read", "INSERT": "insert", "UPDATE": "update", "DELETE": "delete"}

_FUNCTIONS = """
select p.proname as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
    obj_description(p.oid, 'pg_proc') as comment,
    array(
        select r.rolname from pg_roles as r
        where r.rolname = any(%(roles)s) and has_function_privilege(r.oid, p.oid, 'execute')
    ) as callers
from pg_proc as p
where p.pronamespace = %(schema)s::regnamespace
order by p.proname, p.oid
"""
_TABLES = """
select c.oid, c.relname as name, c.relkind = 'v' as is_view, obj_description(c.oid, 'pg_class') as comment,
    (
        select coalesce(json_object_agg(r.rolname, array(
            select p from unnest(%(privileges)s::text[]) as p where has_table_privilege(r.oid, c.oid, p)
        )), '{}') from pg_roles as r where r.rolname = any(%(roles)s)
    ) as grants,
    array(select polname::text from pg_policy where polrelid = c.oid order by 1) as policies
from pg_class as c
where c.relnamespace = %(schema)s::regnamespace and c.relkind in ('r', 'p', 'v')
order by c.relkind = 'v', c.relname
"""
_COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as required,
    pg_get_expr(d.adbin, d.adrelid) as default_value, col_description(a.attrelid, a.attnum) as comment
from pg_attribute as a
left join pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""

Row = dict[str, Any]


def reference_pages(database_url: str) -> dict[str, str]:
    """Path below the site's pages -> text. ``database_url``: a migrated database, as the role that owns it."""
    description = openapi()
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return {
            "reference/functions.md": _functions_page(connection),
            "reference/engine.md": _engine_page(connection),
            "reference/tables.md": _tables_page(connection),
            "reference/http.md": _http_page(description),
            "reference/openapi.json": json.dumps(description, indent=2),
        }


def openapi() -> dict[str, Any]:
    """The OpenAPI description of the bridge's own routes, which no setting changes."""
    address = "https://pay.example.com"
    settings = load_settings(
        _env_file=None, environment="development", public_url=address, success_url=address, cancel_url=address,
        database_url="postgresql://nobody@127.0.0.1/nowhere", jwt_secret="x" * 32,
    )  # fmt: skip
    return create_app(settings).openapi()


def _functions(connection: psycopg.Connection[Row], schema: str) -> list[Row]:
    return connection.execute(_FUNCTIONS, {"schema": schema, "roles": list(_ROLES)}).fetchall()


def _functions_page(connection: psycopg.Connection[Row]) -> str:
    functions = _functions(connection, "public")
    parts = [
        "# SQL functions",
        "Written from a migrated database: signatures, comments and grants as they are. A short list is in "
        "[Functions](../functions.md); the reasons that they raise are in [Errors](../errors.md).",
    ]
    for title, of_users in (
        ("For signed-in users, and for the service on their behalf", True),
        ("For the service only", False),
    ):
        parts.append(f"## {title}")
        parts += [_function(row) for row in functions if ("authenticated" in row["callers"]) is of_users]
    return "\n\n".join(parts) + "\n"


def _function(row: Row) -> str:
    arguments = re.sub(r"(?:^|, )(?=p_\w+ )", "\n    ", row["arguments"]).replace("\n", ",\n").removeprefix(",")
    arguments = re.sub(r"(?<= DEFAULT )NULL::[\w ]+", "null", arguments).replace(" DEFAULT ", " default ")
    signature = (
        f"{row['name']}({arguments}{chr(10) if arguments else ''}) returns {row['result'].replace('SETOF', 'setof')}"
    )
    return f"### {row['name']}\n\n```sql\n{signature}\n```\n\n{_text(row['comment'])}\n\nCalled by: {_callers(row)}."


def _callers(row: Row) -> str:
    return ", ".join(meaning for role, meaning in _ROLES.items() if role in row["callers"]) or "nobody but the database"


def _engine_page(connection: psycopg.Connection[Row]) -> str:
    entries = [
        f"- `{row['name']}({re.sub(r' DEFAULT [^,]+', '', row['arguments'])}) returns {row['result']}`  \n"
        f"  {_text(row['comment'])}{f' Granted to {_callers(row)}.' if row['callers'] else ''}\n"
        for row in _functions(connection, "payments")
    ]
    return (
        "# Engine functions\n\nThe schema `payments`, which is never exposed through the API. Other functions call "
        "these, people do not: they are here for who reads the code.\n\n" + "".join(entries)
    )


def _tables_page(connection: psycopg.Connection[Row]) -> str:
    parts = [
        "# Tables",
        "Written from a migrated database. Row-level security is on everywhere: who may read a table reads the rows "
        "that one of its policies shows. Amounts are in minor units, times have a time zone.",
    ]
    for schema, title in (("public", "Public: read through the API"), ("payments", "Internal: the schema payments")):
        parts.append(f"## {title}")
        asked = {"schema": schema, "roles": list(_ROLES), "privileges": list(_PRIVILEGES)}
        parts += [_table_of(connection, row) for row in connection.execute(_TABLES, asked).fetchall()]
    return "\n\n".join(parts) + "\n"


def _table_of(connection: psycopg.Connection[Row], row: Row) -> str:
    columns = [
        (f"`{column['name']}`", _type(column), _text(column["comment"]))
        for column in connection.execute(_COLUMNS, (row["oid"],)).fetchall()
    ]
    lines = [f"### {row['name']}", _text(row["comment"]), _access(row)]
    if row["policies"]:
        lines.append("Policies: " + ", ".join(f"`{name}`" for name in row["policies"]) + ".")
    return "\n\n".join([*lines, _table(("column", "type", "meaning"), columns).rstrip()])


def _type(column: Row) -> str:
    shown = f"`{column['type']}`" + ("" if column["required"] else ", may be null")
    return shown + (f", by default `{column['default_value']}`" if column["default_value"] else "")


def _access(row: Row) -> str:
    granted = [
        f"{_ROLES[role]}: {', '.join(_PRIVILEGES[privilege] for privilege in row['grants'][role])}"
        for role in _ROLES
        if row["grants"].get(role)
    ]
    return ("Granted to " + "; ".join(granted) + ".") if granted else "Granted to nobody: functions reach it."


def _http_page(description: dict[str, Any]) -> str:
    parts = [
        "# HTTP API",
        f"{_text(description['info']['description'])} Written from the bridge's OpenAPI description, which is "
        "also here as [openapi.json](openapi.json). Every answer but 2xx and 3xx is an error: "
        "[their reasons](../errors.md).",
    ]
    for path, methods in description["paths"].items():
        parts += [_operation(description, method, path, operation) for method, operation in methods.items()]
    schemas = description["components"]["schemas"]
    parts.append("## Objects")
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items()) if "Validation" not in name]
    return "\n\n".join(parts) + "\n"


def _operation(description: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    schemes = description["components"]["securitySchemes"]
    needed = [schemes[name]["description"] for one in operation.get("security", []) for name in one]
    lines = [f"## {method.upper()} {path}", _text(operation["description"])]
    lines.append(f"`Authorization: Bearer` with: {' '.join(needed)}" if needed else "Needs no `Authorization` header.")
    if parameters := operation.get("parameters"):
        given = [(f"`{one['name']}`", one["in"], _shape(one["schema"])) for one in parameters]
        lines.append(_table(("parameter", "in", "value"), given).rstrip())
    if body := operation.get("requestBody"):
        what = body.get("description") or ", ".join({_shape(one["schema"]) for one in body["content"].values()})
        lines.append(f"Body: {what}")
    good = [(status, one) for status, one in operation["responses"].items() if status < "400"]
    rows = [(status, _answer(one)) for status, one in good]
    rows.append((", ".join(sorted(set(operation["responses"]) - {status for status, _ in good})), "an error"))
    return "\n\n".join([*lines, _table(("status", "answer"), rows).rstrip()])


def _answer(response: dict[str, Any]) -> str:
    shapes = [_shape(one["schema"]) for one in response.get("content", {}).values() if one.get("schema")]
    return ", ".join(shapes) or _text(response["description"])


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (f"`{field}`" + ("" if field in required else " (optional)"), _shape(shape))
        for field, shape in schema["properties"].items()
    ]
    return f"### {name}\n\n{_text(schema.get('description'))}\n\n{_table(('field', 'value'), rows).rstrip()}"


def _shape(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_shape(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_shape(schema['items'])}"
    limits = [
        f"{word} `{schema[key]}`".replace("|", "\\|")
        for key, word in (
            ("format", ""), ("pattern", "like"), ("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"),
            ("exclusiveMaximum", "below"), ("maxLength", "at most"),
        )
        if key in schema
    ]  # fmt: skip
    return ", ".join([schema.get("type", "anything"), *(limit.strip() for limit in limits)])


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(heads)]
    lines += [("---",) * len(lines[0]), *(tuple(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(comment: str | None) -> str:
    """A comment as a line of Markdown that is also good in a table."""
    text = " ".join((comment or "").replace("``", "`").split())
    return re.sub(r"[<|]", lambda found: {"<": "&lt;", "|": "\\|"}[found[0]], text)
