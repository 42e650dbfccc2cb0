"""Writes the SQL of a router and of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bridge.errors import SetupError
from bridge.sharding.catalogue import Function, read_functions, row_type
from bridge.sharding.routes import ROUTES, Route

__all__ = ["LARGEST", "LOGIN", "router_script", "shard_script"]

LARGEST = 32  # shards; each numbers in steps of so many
LOGIN = "pgcheckout_router"
ROW = "public.payment_checkout_sessions"

# The bridge's own limits, a second sooner: then it is the shard that says so, and nothing is in doubt.
_OPTIONS = (
    r"-c role=service_role -c statement_timeout=7s -c lock_timeout=5s -c default_transaction_isolation=read\ committed"
)

_FORWARD = Template("""
create function shard_calls.$name($parameters)
returns $result
language plproxy
as $$$$
    cluster 'pgcheckout'; run on $place; $query;
$$$$;
""")

_PLAIN = Template("select * from $call")

# The caller first, then the function: the inner query waits for the outer one's row. Both settings end with it.
_AS_CALLER = Template(
    "select f.* from (select set_config('role', r_role, true) as role,"
    " set_config('request.jwt.claims', r_claims, true) as claims offset 0) as caller,"
    " lateral (select g.* from $call as g where caller.role || caller.claims is not null offset 0) as f"
)

# One shard after another, until one answers. Each try is a subtransaction of the router only: the shard commits by
# itself, in the transaction of its own that PL/Proxy's call is.
_ASK = Template("""
create function public.$name($declared)
returns $result
language plpgsql
$volatility
security definer -- only the owner may use the shards
set search_path = pg_catalog, pg_temp
as $$$$
declare
    v_shard int;
    v_error jsonb;
    v_message text;
    v_detail text;
    v_hint text;
    $variables
begin
    $before
    foreach v_shard in array $places loop
        begin
            $ask
        exception when others then
            get stacked diagnostics
                v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
            v_error := shard_router.next_error(v_error, v_shard, sqlstate, v_message, v_detail, v_hint);
        end;
    end loop;
    $finish
    perform shard_router.raise_error(v_error);
end;
$$$$;
""")

_ASK_ALL = Template("""
create function public.$name($declared)
returns $result
language plpgsql
$volatility
security definer -- only the owner may use the shards
set search_path = pg_catalog, pg_temp
as $$$$
declare
    v_message text;
    v_detail text;
    v_hint text;
begin
    $ask
exception when others then
    get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    perform shard_router.raise_error(shard_router.next_error(null, null, sqlstate, v_message, v_detail, v_hint));
end;
$$$$;
""")

_RIGHTS = Template("""
comment on function $signature is $comment;
revoke all on function $signature from public;
grant execute on function $signature to $roles;
""")

_SERVER = Template("""
do $$$$
declare
    v_option text[];
begin
    if not exists (select from pg_catalog.pg_foreign_server where srvname = 'pgcheckout') then
        create server pgcheckout foreign data wrapper plproxy options (
            modular_mapping '1', disable_binary '1', p0 $first -- it must have one
        );
    end if;
    if not exists (
        select from pg_catalog.pg_user_mappings where srvname = 'pgcheckout' and usename = current_user
    ) then
        create user mapping for current_user server pgcheckout options (user '$login');
    end if;
    foreach v_option slice 1 in array array[
        $options
    ] loop
        execute format(
            'alter server pgcheckout options (%s %s %L)',
            case when exists (
                select from pg_catalog.pg_foreign_server as s, unnest(s.srvoptions) as o
                where s.srvname = 'pgcheckout' and o like v_option[1] || '=%'
            ) then 'set' else 'add' end,
            v_option[1], v_option[2]
        );
    end loop;
end;
$$$$;

-- new shards get nothing by themselves: users are moved there
insert into shard_router.logical_shards (logical, shard)
select n, $spread from generate_series(0, 1023) as n
on conflict do nothing;
""")

_HEARTBEATS = """
create or replace function shard_router.forget_heartbeat_elsewhere(p_name text, p_kept_on int)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shard int;
begin
    foreach v_shard in array array_remove(shard_router.all_shards(), p_kept_on) loop
        begin
            perform shard_calls.forget_heartbeat(v_shard, p_name);
        exception when others then
            raise debug 'shard % keeps an old heartbeat: %', v_shard, sqlerrm;
        end;
    end loop;
end;
$$;
revoke all on function shard_router.forget_heartbeat_elsewhere(text, int) from public;
"""


def router_script(shards: Sequence[str], *, all_on_first: bool = False) -> str:
    """The SQL of a router for the shards of these URLs, in one transaction; it may be run again to add shards.

    Reads the catalogue of the first. The login's password is not in it: put it into the user mapping or a ``.pgpass``.
    ``all_on_first`` when the first shard is a database that has been in use. Raises SetupError.
    """
    if not 1 <= len(shards) <= LARGEST:
        raise SetupError(f"Name 1 to {LARGEST} shards.")
    with psycopg.connect(shards[0], connect_timeout=10) as connection:
        functions = read_functions(connection, list(ROUTES))
        columns = row_type(connection, ROW)
    parts = [
        "begin;",
        f"drop type if exists {ROW} cascade;\ndrop schema if exists shard_calls cascade;",
        *(f"drop function if exists {function.signature};" for function in functions),
        _packaged("places.sql"),
        _packaged("router.sql"),
        _server(shards, all_on_first=all_on_first),
        f"create type {ROW} as ({columns});\ngrant usage on type {ROW} to public;",
        "create schema shard_calls;",
        *(_function(function, ROUTES[function.name]) for function in functions),
        _HELPERS,
        _HEARTBEATS,
        "revoke all on all functions in schema shard_calls from public;",
        "commit;",
    ]
    return "\n".join(part.strip() for part in parts) + "\n"


def shard_script(number: int, starts: Mapping[str, int]) -> str:
    """The SQL that a migrated database needs besides, to be shard ``number``, in one transaction.

    ``starts``: for each identity sequence a multiple of 32 above all numbers that any shard has given.
    """
    series = "" if number == 0 else _SERIES.substitute(number=number)
    counters = "\n".join(
        f"alter sequence {name} increment by {LARGEST} minvalue 0 restart with {start + number};"
        for name, start in starts.items()
    )
    parts = ["begin;", _packaged("places.sql"), _packaged("shard.sql"), counters, series, "commit;"]
    return "\n".join(part.strip() for part in parts if part) + "\n"


# numbers of documents have no gaps per series: each shard has a series of its own
_SERIES = Template("""
update payments.settings
set invoice_series = invoice_series || '-$number', credit_note_series = credit_note_series || '-$number'
where invoice_series !~ '-$number$$';
""")

_HELPERS = "\n".join(
    _FORWARD.substitute(
        name=name, parameters=f"r_shard int, {parameters}", result="text", place="r_shard",
        query=f"select coalesce(shard_router.{name}({arguments})::text, '')",
    )
    for name, parameters, arguments in (
        ("add_user", "p_user_id uuid, p_email text", "p_user_id, p_email"),
        ("forget_failure", "p_provider text, p_event_id text", "p_provider, p_event_id"),
    )
)  # fmt: skip


def _packaged(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _server(shards: Sequence[str], *, all_on_first: bool) -> str:
    options = ",\n        ".join(
        f"array['p{number}', {_literal(_destination(url))}]" for number, url in enumerate(shards)
    )
    return _SERVER.substitute(
        options=options,
        first=_literal(_destination(shards[0])),
        login=LOGIN,
        spread="0" if all_on_first else f"n % {len(shards)}",
    )


def _destination(url: str) -> str:
    """How the router reaches a shard: the URL's way, but as its own login."""
    known = {name: value for name, value in conninfo_to_dict(url).items() if name not in ("user", "password")}
    return make_conninfo("", **{"connect_timeout": 3, **known, "options": _OPTIONS, "application_name": LOGIN})


def _function(function: Function, route: Route) -> str:
    forward = _forward(function, route)
    return forward + _public(function, route) + _RIGHTS.substitute(
        signature=function.signature,
        comment=_literal(function.comment),
        roles="service_role, authenticated" if function.for_users else "service_role",
    )  # fmt: skip


def _forward(function: Function, route: Route) -> str:
    parameters = [f"{name} {kind}" for name, kind in zip(function.arguments, function.types, strict=True)]
    call = f"public.{function.name}({', '.join(function.arguments)})"
    query = _PLAIN.substitute(call=call)
    if function.for_users:
        parameters = ["r_role text", "r_claims text", *parameters]
        query = _AS_CALLER.substitute(call=call)
    if not route.runs_on_all:
        parameters = ["r_shard int", *parameters]
    result = function.result
    if result == "void":  # which has no text that PL/Proxy could read back
        result, query = "text", f"select {call}::text"
    if route.runs_on_all and not function.is_set:
        result = f"setof {result}"
    return _FORWARD.substitute(
        name=function.name, parameters=", ".join(parameters), result=result, query=query,
        place="all" if route.runs_on_all else "r_shard",
    )  # fmt: skip


def _public(function: Function, route: Route) -> str:
    ask, variables, finish = _asking(function, route)
    return (_ASK_ALL if route.runs_on_all else _ASK).substitute(
        name=function.name,
        declared=function.declared,
        result=function.result,
        volatility={"v": "volatile", "s": "stable", "i": "immutable"}[function.volatility],
        before=route.before,
        places=route.places,
        ask=ask,
        variables=variables,
        finish=finish,
    )


def _asking(function: Function, route: Route) -> tuple[str, str, str]:
    """What asks a shard, the variables it needs, and what follows when all have been asked."""
    who = ["shard_router.caller_role()", "shard_router.caller_claims()"] if function.for_users else []
    where = [] if route.runs_on_all else ["v_shard"]
    call = f"shard_calls.{function.name}({', '.join([*where, *who, *function.arguments])})"
    rows = f"return query {_PLAIN.substitute(call=call)}"
    answered, done = "v_answered boolean := false;", "if v_answered then return; end if;"
    kinds = {
        "first": _first(function, call, route.after),
        "total": (
            f"v_total := v_total + {call}; v_answered := true;",
            f"v_total int := 0; {answered}",
            "if v_answered then return v_total; end if;",
        ),
        "rows": (f"{rows if function.is_set else f'perform {call}'}; v_answered := true;", answered, done),
        "claims": (
            f"{rows.replace('p_limit', 'p_limit - v_count')}; v_answered := true;"
            " get diagnostics v_rows = row_count; v_count := v_count + v_rows; exit when v_count >= p_limit;",
            f"v_rows int; v_count int := 0; {answered}",
            done,
        ),
        "merged": (
            f"v_answers := v_answers || {call};",
            "v_answers jsonb[] := '{}';",
            f"if v_answers <> '{{}}' then return {route.merge}(v_answers); end if;",
        ),
        "every": (f"{rows} order by {route.order};", "", ""),
        "report": (f"return {route.merge}(array(select {call}));", "", ""),
    }
    return kinds[route.kind]


def _first(function: Function, call: str, after: str) -> tuple[str, str, str]:
    if function.is_set:
        return f"return query {_PLAIN.substitute(call=call)}; {after} return;", "", ""
    if function.result == "void":
        return f"perform {call}; {after} return;", "", ""
    return f"v_answer := {call}; {after} return v_answer;", f"v_answer {function.result};", ""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
