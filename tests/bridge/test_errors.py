"""One list of reasons: what the SQL raises, the classes of the bridge, and docs/errors.md."""

from __future__ import annotations

import re
from typing import NamedTuple

import psycopg

from bridge.errors import PgcheckoutError, Refused
from bridge.money import display_amount, exponent
from tests.support.database import REPOSITORY, Database


class Page(NamedTuple):
    by_the_database: dict[str, int]
    by_the_bridge: dict[str, int]


def page() -> Page:
    """The two tables of docs/errors.md."""
    text = (REPOSITORY / "docs" / "errors.md").read_text("utf-8")
    database, bridge = text.split("## Raised by the database")[1].split("## Raised by the bridge")
    tables = [
        {reason: int(status) for reason, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", part, re.MULTILINE)}
        for part in (database, bridge)
    ]
    return Page(*tables)


def raised_by_sql() -> dict[str, int]:
    """Every reason in sql/ and its status; a reason has one status wherever it is raised."""
    found = {
        (reason, int(status))
        for file in (REPOSITORY / "sql").rglob("*.sql")
        for status, reason in re.findall(r"errcode = 'PT(\d{3})',\s*detail = '(\w+)'", file.read_text("utf-8"))
    }
    assert len(found) == len({reason for reason, _ in found})
    return dict(found)


def classes() -> dict[str, type[PgcheckoutError]]:
    """Every class that has a reason of its own."""
    known: dict[str, type[PgcheckoutError]] = {}
    waiting: list[type[PgcheckoutError]] = [PgcheckoutError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "reason" in vars(kind):
            assert kind.reason not in known
            known[kind.reason] = kind
    return known


def test_every_raise_of_the_sql_states_a_reason() -> None:
    for file in (REPOSITORY / "sql").rglob("*.sql"):
        text = file.read_text("utf-8")
        raised, explained = (
            text.count("raise exception"),
            len(re.findall(r"errcode = (?:'PT\d{3}',\s*detail = '\w+'|'check_violation')", text)),
        )
        assert raised == explained, file.name


def test_every_reason_of_the_sql_has_its_class_and_status() -> None:
    for reason, status in raised_by_sql().items():
        error = Refused.for_reason(reason, "A sentence.", "Advice.")
        assert type(error) is not Refused, reason
        assert (error.reason, error.status, error.message, error.hint) == (reason, status, "A sentence.", "Advice.")


def test_the_page_lists_what_the_sql_raises_and_nothing_else() -> None:
    assert page().by_the_database == raised_by_sql()


def test_the_page_lists_what_only_the_bridge_raises_and_nothing_else() -> None:
    # no exceptions: these are refused at the edge, before any of our code runs
    expected = {"body_too_large": 413, "body_too_slow": 408, "overloaded": 503}
    expected |= {reason: kind.status for reason, kind in classes().items() if reason not in raised_by_sql()}
    assert page().by_the_bridge == expected


def test_an_unknown_reason_is_still_a_refusal() -> None:
    error = Refused.for_reason("teapot", "No.", "")
    assert type(error) is Refused


def test_both_sides_count_the_digits_of_every_currency_alike(db: Database) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    codes = [a + b + c for a in letters for b in letters for c in letters]
    with psycopg.connect(db.url()) as connection:
        query = "select code, payments.currency_exponent(code) from unnest(%s::text[]) as code"
        digits: dict[str, int] = dict(connection.execute(query, (codes,)).fetchall())
    assert digits == {code: exponent(code) for code in codes}


def test_amounts_are_shown_with_the_digits_of_their_currency() -> None:
    assert display_amount(250000, "NGN") == "2,500.00 NGN"
    assert display_amount(5, "USD") == "0.05 USD"
    assert display_amount(1234567, "JPY") == "1,234,567 JPY"
    assert display_amount(1001, "KWD") == "1.001 KWD"
    assert display_amount(10**15, "USD") == "10,000,000,000,000.00 USD"
