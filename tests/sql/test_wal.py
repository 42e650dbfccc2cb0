"""Asking again writes nothing: counted by Postgres itself, records of the write-ahead log per call."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.support.database import Database, Row

OUTCOME = (
    "select public.apply_payment_outcome(jsonb_build_object('provider', 'stripe', 'reference', '{reference}', 'status',"
    " 'completed', 'provider_payment_id', 'pi_1', 'amount', 500, 'currency', 'USD'), '{{\"id\": \"evt_1\", \"type\":"
    ' "t", "payload": {{}}}}\'::jsonb)'
)
CALLS = {
    "reuse": "select public.get_or_create_checkout_session('credits_100', '{user}')",
    "latest": "select * from public.get_latest_checkout_session('{user}')",
    "complete": "select public.complete_checkout_session('{session_id}', p_provider_payment_id => 'pi_1')",
    "outcome": OUTCOME,
}


def records(db: Database, query: str) -> int:
    (row,) = db.as_service().sql(f"explain (analyze, wal, format json) {query}")
    (plan,) = row["QUERY PLAN"] if isinstance(row["QUERY PLAN"], list) else json.loads(row["QUERY PLAN"])
    return int(plan["Plan"]["WAL Records"])


@pytest.mark.parametrize("call", CALLS)
def test_only_the_first_call_writes(
    db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, call: str
) -> None:
    query = CALLS[call].format(user=user, session_id=session_id, reference=attempt["reference"])
    if call in ("complete", "outcome"):
        assert records(db, query) > 5
    records(db, query)  # the first who reads a new row notes in it that its transaction has ended
    assert records(db, query) == 0
