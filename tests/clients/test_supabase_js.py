"""What apps see through the real supabase-js and the real PostgREST."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import uuid

    from tests.clients.conftest import Api
    from tests.support.database import Database

pytestmark = pytest.mark.needs("postgrest", "supabase_js")

_PRIVATE = (
    "payment_checkout_sessions",
    "payment_contributions",
    "payment_credit_balances",
    "payment_credit_entries",
    "payment_group_members",
    "payment_groups",
    "payment_invoices",
    "payment_refunds",
    "payment_subscriptions",
)
_CALLS = {
    "quote_checkout": 'supabase.rpc("quote_checkout", { p_plan: "credits_100", p_currency: "NGN" })',
    "get_or_create_checkout_session": 'supabase.rpc("get_or_create_checkout_session", { p_plan: "pro_month" })',
    "get_latest_checkout_session": 'supabase.rpc("get_latest_checkout_session")',
    "cancel_checkout_session": 'supabase.rpc("cancel_checkout_session", { p_session_id: open })',
    "payment_history": 'supabase.rpc("payment_history", { p_page_size: 10 })',
    "payment_stats": 'supabase.rpc("payment_stats")',
}


def _reads(*tables: str) -> dict[str, str]:
    return {table: f'supabase.from("{table}").select("*")' for table in tables}


def _new_owner(db: Database) -> tuple[uuid.UUID, uuid.UUID]:
    """A user who has bought 100 credits, and has a session open for 500."""
    owner = db.new_user()
    db.apply(db.open_attempt(db.new_session(owner)))
    return owner, db.new_session(owner, "credits_500")


def _reasons(answers: dict[str, Any]) -> dict[str, tuple[int, str | None]]:
    return {name: (answer["status"], answer["error"] and answer["error"]["code"]) for name, answer in answers.items()}


def test_a_signed_in_user_calls_every_client_function(api: Api, db: Database) -> None:
    granted = db.sql(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " and has_function_privilege('authenticated', oid, 'execute')"
    )
    assert set(_CALLS) == {row["proname"] for row in granted}
    owner, open_session = _new_owner(db)
    answers = api.as_user(owner).each(_CALLS, open=str(open_session))
    assert _reasons(answers) == dict.fromkeys(_CALLS, (200, None))
    data = {name: answer["data"] for name, answer in answers.items()}
    assert (data["quote_checkout"]["amount"], data["quote_checkout"]["currency"]) == (750000, "NGN")
    assert [row["id"] for row in data["get_latest_checkout_session"]] == [data["get_or_create_checkout_session"]]
    cancelled = data["cancel_checkout_session"]
    assert (cancelled["id"], cancelled["status"]) == (str(open_session), "cancelled")
    assert [row["status"] for row in data["payment_history"]["payments"]] == ["pending", "cancelled", "completed"]
    assert (data["payment_stats"]["spent"], data["payment_stats"]["credits_bought"]) == ({"USD": 500}, 100)


def test_nobody_calls_a_client_function_without_signing_in(api: Api, db: Database) -> None:
    _, open_session = _new_owner(db)
    answers = api.as_anon().each(_CALLS, open=str(open_session))
    assert _reasons(answers) == dict.fromkeys(_CALLS, (401, "42501"))
    assert db.session(open_session)["status"] == "pending"


def test_a_user_sees_the_rows_of_nobody_else(api: Api, db: Database) -> None:
    owner, open_session = _new_owner(db)
    own = ("payment_checkout_sessions", "payment_credit_balances", "payment_credit_entries", "payment_invoices")
    for table, answer in api.as_user(owner).each(_reads(*own)).items():
        assert answer["data"], table
        assert {row["user_id"] for row in answer["data"]} == {str(owner)}, table
    stranger = api.as_user(db.new_user())
    answers = stranger.each(_reads(*_PRIVATE) | {"cancel": _CALLS["cancel_checkout_session"]}, open=str(open_session))
    refused = answers.pop("cancel")["error"]
    assert (refused["code"], refused["details"]) == ("PT403", "not_your_session")
    assert {table: answer["data"] for table, answer in answers.items()} == {table: [] for table in _PRIVATE}


def test_anon_reads_the_catalogue_and_nothing_else(api: Api, db: Database) -> None:
    _new_owner(db)
    catalogue = 'supabase.from("payment_products").select("id, payment_prices(currency, amount)").order("id")'
    answers = api.as_anon().each({"catalogue": catalogue, **_reads(*_PRIVATE)})
    first = answers.pop("catalogue")["data"][0]
    assert first["id"] == "credits_100"
    assert {"currency": "USD", "amount": 500} in first["payment_prices"]
    assert _reasons(answers) == dict.fromkeys(_PRIVATE, (401, "42501"))


def test_every_table_that_apps_may_read_is_checked_here(db: Database) -> None:
    readable = db.sql(
        "select c.relname, has_table_privilege('anon', c.oid, 'select') as by_anybody from pg_class as c"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p')"
        " and has_table_privilege('authenticated', c.oid, 'select')"
    )
    assert {row["relname"] for row in readable if not row["by_anybody"]} == set(_PRIVATE)
    assert {row["relname"] for row in readable if row["by_anybody"]} == {"payment_prices", "payment_products"}


def test_a_user_writes_no_table_and_calls_nothing_of_the_service(api: Api, db: Database) -> None:
    owner, open_session = _new_owner(db)
    mine = '.eq("id", open)'
    forbidden = {
        "insert": 'supabase.from("payment_credit_entries").insert({ amount: 9 })',
        "update": f'supabase.from("payment_checkout_sessions").update({{ status: "completed" }}){mine}',
        "delete": f'supabase.from("payment_checkout_sessions").delete(){mine}',
        "complete": 'supabase.rpc("complete_checkout_session", { p_session_id: open, p_provider_payment_id: "pi_0" })',
        "price": 'supabase.from("payment_prices").update({ amount: 1 }).eq("product_id", "credits_500")',
    }
    answers = api.as_user(owner).each(forbidden, open=str(open_session))
    assert _reasons(answers) == dict.fromkeys(forbidden, (403, "42501"))
    assert db.session(open_session)["status"] == "pending"


def test_a_refusal_carries_code_reason_sentence_and_advice(api: Api, db: Database) -> None:
    moon = 'supabase.rpc("quote_checkout", { p_plan: "moon" })'
    answer = api.as_user(db.new_user()).each({"moon": moon})["moon"]
    error = answer["error"]
    assert (answer["status"], error["code"], error["details"]) == (404, "PT404", "product_unknown")
    assert "moon" in error["message"]
    assert error["hint"]


def test_a_token_of_another_day_is_told_apart(api: Api, db: Database) -> None:
    stale = api.as_user(db.new_user(), expires_in=-120)
    answer = stale.each({"latest": _CALLS["get_latest_checkout_session"]})["latest"]
    # 12 says PGRST301 for a claim that does not hold, later versions PGRST303
    assert (answer["status"], answer["error"]["code"]) in ((401, "PGRST301"), (401, "PGRST303"))
