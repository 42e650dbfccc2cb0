"""What apps and servers see through the real supabase-py and the real PostgREST."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from postgrest.exceptions import APIError

from tests.postgrest.conftest import KEYS
from tests.support.database import outcome
from tests.support.postgrest import PUBLISHABLE, Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgrest.conftest import Api, Caller
    from tests.support.database import Database

pytestmark = pytest.mark.needs("postgrest")


@contextlib.contextmanager
def _refused(code: str, reason: str | None = None) -> Iterator[None]:
    """Expect this code; and with a reason: in details, beside a sentence and advice."""
    with pytest.raises(APIError) as caught:
        yield
    error = caught.value
    assert error.code == code, error
    if reason:
        assert error.details == reason
        assert error.message
        assert error.hint


def _status(caller: Caller, path: str, **body: object) -> int:
    """The HTTP status, which the client does not show."""
    headers = {"authorization": f"Bearer {caller.token}"} if caller.token else {}
    return httpx.post(f"{caller.url}/rpc/{path}", json=body, headers=headers).status_code


def _pay(service: Caller, session_id: str) -> dict[str, object]:
    """The bridge's three calls of a purchase; again, they are the provider's second delivery of the same event."""
    attempt = service.rpc("find_checkout_attempt", p_session_id=session_id)
    if attempt["reference"] is None:
        attempt = service.rpc("open_checkout_attempt", p_session_id=session_id)
        page = {"p_provider_session_id": "cs_1", "p_checkout_url": "https://pay.test/cs_1"}
        service.rpc("attach_checkout_attempt", p_attempt=attempt["number"], **page)
    event = {"id": "evt_1", "type": "checkout.session.completed", "payload": {"paid": True}}
    answer: dict[str, object] = service.rpc("apply_payment_outcome", p_outcome=outcome(attempt), p_event=event)
    return answer


def test_a_purchase_from_quote_to_credits(api: Api, db: Database) -> None:
    user_id = db.new_user()
    user, service = api.as_user(user_id), api.as_service()
    assert user.rpc("quote_checkout", p_plan="credits_100")["amount"] == 500
    session_id = user.rpc("get_or_create_checkout_session", p_plan="credits_100", p_price=5)
    assert user.rpc("get_or_create_checkout_session", p_plan="credits_100") == session_id
    assert _pay(service, session_id)["fulfilment_status"] == "fulfilled"
    assert _pay(service, session_id) == {"duplicate": True}
    (latest,) = user.rpc("get_latest_checkout_session")
    assert (latest["id"], latest["status"], latest["amount"]) == (session_id, "completed", 500)
    assert [row["balance"] for row in user.rows("payment_credit_balances")] == [100]


def test_the_service_completes_fails_expires_and_retries(api: Api, db: Database) -> None:
    service = api.as_service()
    paid, failing, lapsing = (str(db.new_session()) for _ in range(3))
    done = service.rpc("complete_checkout_session", p_session_id=paid, p_stripe_session_id="cs_test_9")
    assert (done["status"], done["already_completed"]) == ("completed", False)
    assert service.rpc("complete_checkout_session", p_session_id=paid, p_stripe_session_id="cs_test_9")[
        "already_completed"
    ]
    failed = service.rpc("fail_checkout_session", p_session_id=failing, p_error_code="card_declined")
    assert failed["status"] == "failed"
    db.lapse(uuid.UUID(lapsing))
    assert service.rpc("expire_old_checkout_sessions", p_limit=10) == 1
    with _refused("PT409", "nothing_to_retry"):
        service.rpc("retry_fulfilment", p_session_id=paid)


def test_a_user_cancels_a_pending_session_once(api: Api, db: Database) -> None:
    user_id = db.new_user()
    user = api.as_user(user_id)
    session_id = user.rpc("get_or_create_checkout_session", p_plan="credits_100")
    cancelled = user.rpc("cancel_checkout_session", p_session_id=session_id)
    assert (cancelled["id"], cancelled["status"]) == (session_id, "cancelled")
    with _refused("PT409", "session_not_pending"):
        user.rpc("cancel_checkout_session", p_session_id=session_id)


def test_refusals_carry_code_reason_sentence_and_advice(api: Api, db: Database) -> None:
    user = api.as_user(db.new_user())
    with _refused("PT404", "product_unknown"):
        user.rpc("quote_checkout", p_plan="moon")
    with _refused("PT422", "price_mismatch"):
        user.rpc("get_or_create_checkout_session", p_plan="credits_100", p_price=0.01)
    with _refused("PT403", "not_your_session"):
        user.rpc("get_or_create_checkout_session", p_plan="credits_100", p_user_id=str(db.new_user()))


def test_the_number_in_the_code_is_the_http_status(api: Api, db: Database) -> None:
    user = api.as_user(db.new_user())
    assert _status(user, "quote_checkout", p_plan="moon") == 404
    assert _status(user, "quote_checkout", p_plan="credits_100", p_currency="XXX") == 422
    assert _status(user, "get_latest_checkout_session", p_user_id=str(db.new_user())) == 403
    assert _status(api.as_anon(), "get_latest_checkout_session") == 401


def test_nobody_calls_functions_without_signing_in(api: Api) -> None:
    for function, arguments in {
        "quote_checkout": {"p_plan": "credits_100"},
        "get_latest_checkout_session": {},
        "get_or_create_checkout_session": {"p_plan": "credits_100"},
        "expire_old_checkout_sessions": {},
    }.items():
        with _refused("42501"):
            api.as_anon().rpc(function, **arguments)


def test_the_product_list_is_all_that_anon_reads(api: Api, db: Database) -> None:
    db.new_session()
    db.sql("update public.payment_products set active = false where id = 'pro_month'")
    anon = api.as_anon()
    assert {row["id"] for row in anon.rows("payment_products")} == {"credits_100", "credits_500"}
    assert {row["product_id"] for row in anon.rows("payment_prices")} == {"credits_100", "credits_500"}
    for table in (
        "payment_checkout_sessions",
        "payment_credit_balances",
        "payment_credit_entries",
        "payment_subscriptions",
    ):
        with _refused("42501"):
            anon.rows(table)


def test_a_user_cannot_call_what_is_for_the_service(api: Api, db: Database) -> None:
    user_id = db.new_user()
    session_id = str(db.new_session(user_id))
    user = api.as_user(user_id)
    with _refused("42501"):
        user.rpc("complete_checkout_session", p_session_id=session_id, p_provider_payment_id="pi_free_lunch")
    with _refused("42501"):
        user.rpc("apply_payment_outcome", p_outcome={"provider": "stripe", "session_id": session_id})
    assert db.session(uuid.UUID(session_id))["status"] == "pending"


def test_users_read_their_own_rows_only(api: Api, db: Database) -> None:
    owner, stranger = db.new_user(), db.new_user()
    session_id = str(db.new_session(owner))
    _pay(api.as_service(), session_id)
    for table in ("payment_checkout_sessions", "payment_credit_balances", "payment_credit_entries"):
        assert [row["user_id"] for row in api.as_user(owner).rows(table)] == [str(owner)]
        assert api.as_user(stranger).rows(table) == []
    with _refused("PT403", "not_your_session"):
        api.as_user(stranger).rpc("get_latest_checkout_session", p_user_id=str(owner))
    with _refused("PT403", "not_your_session"):
        api.as_user(stranger).rpc("cancel_checkout_session", p_session_id=session_id)


def test_users_write_no_table(api: Api, db: Database) -> None:
    user_id = db.new_user()
    session_id = str(db.new_session(user_id))
    user = api.as_user(user_id)
    with _refused("42501"):
        user.run(lambda client: client.table("payment_credit_entries").insert({"user_id": str(user_id), "amount": 9}))
    with _refused("42501"):
        user.run(lambda client: _sessions(client).update({"status": "completed"}).eq("id", session_id))
    with _refused("42501"):
        user.run(lambda client: _sessions(client).delete().eq("id", session_id))
    assert db.session(uuid.UUID(session_id))["status"] == "pending"


def _sessions(client: Any) -> Any:
    return client.table("payment_checkout_sessions")


def test_the_engines_schema_is_not_served(api: Api) -> None:
    with _refused("PGRST106"):
        api.as_service().run(lambda client: client.schema("payments").rpc("fulfil_none", {}))


@pytest.mark.parametrize("algorithm", ["ES256", "HS256"])
def test_access_tokens_of_both_kinds_of_signing_keys_work(api: Api, db: Database, algorithm: str) -> None:
    user_id = db.new_user()
    session_id = str(db.new_session(user_id))
    (latest,) = api.as_user(user_id, algorithm).rpc("get_latest_checkout_session")
    assert latest["id"] == session_id


def test_expired_tokens_are_refused(api: Api, db: Database) -> None:
    stale = api.as_user(db.new_user(), expires_in=-120)
    # 12 says PGRST301 for a claim that does not hold, later versions PGRST303
    with pytest.raises(APIError, match=r"PGRST30[13]"):
        stale.rpc("get_latest_checkout_session")
    assert _status(stale, "get_latest_checkout_session") == 401


@pytest.mark.parametrize("algorithm", ["ES256", "HS256"])
def test_forged_tokens_are_refused(api: Api, db: Database, algorithm: str) -> None:
    forger = Keys(shared_secret="another-secret-of-more-than-32-bytes!!")
    forged = api.with_token(forger.token(algorithm, "service_role", str(db.new_user())))
    with pytest.raises(APIError, match="PGRST301"):
        forged.rpc("expire_old_checkout_sessions")
    assert _status(forged, "expire_old_checkout_sessions") == 401


def test_unsigned_tokens_are_refused(api: Api) -> None:
    unsigned = api.with_token(jwt.encode({"role": "service_role"}, "", "none"))
    with pytest.raises(APIError, match="PGRST301"):
        unsigned.rpc("expire_old_checkout_sessions")


def test_a_token_without_a_user_is_nobody(api: Api) -> None:
    nobody = api.with_token(KEYS.token("ES256", "authenticated"))
    with _refused("PT401", "not_signed_in"):
        nobody.rpc("get_latest_checkout_session")
    assert nobody.rows("payment_checkout_sessions") == []


def test_the_email_of_the_token_goes_into_the_session(api: Api, db: Database) -> None:
    user = api.as_user(db.new_user(), email="ada@example.test")
    user.rpc("get_or_create_checkout_session", p_plan="credits_100")
    (latest,) = user.rpc("get_latest_checkout_session")
    assert latest["email"] == "ada@example.test"


def test_functions_that_only_read_answer_to_get(api: Api, db: Database) -> None:
    user = api.as_user(db.new_user())
    assert user.get("quote_checkout", p_plan="credits_100", p_currency="NGN")["amount"] == 750000
    assert user.get("get_latest_checkout_session") == []
    with _refused("25006"):
        user.get("get_or_create_checkout_session", p_plan="credits_100")


def test_void_functions_answer_with_nothing(api: Api, db: Database) -> None:
    service = api.as_service()
    attempt = service.rpc("open_checkout_attempt", p_session_id=str(db.new_session()))
    assert not service.rpc("abandon_checkout_attempt", p_attempt=attempt["number"], p_error_code="page_not_opened")
    event = {"id": "evt_1", "type": "odd", "payload": {}}
    failure = {"p_provider": "stripe", "p_event": event, "p_error": "session_not_found", "p_retryable": True}
    assert not service.rpc("record_webhook_failure", **failure)
    assert db.value("select status from payments.webhook_events where event_id = 'evt_1'") == "failed"


def test_the_api_describes_itself(api: Api) -> None:
    token = KEYS.token("ES256", "authenticated", str(uuid.uuid4()))
    description = httpx.get(api.url, headers={"authorization": f"Bearer {token}", "apikey": PUBLISHABLE}).json()
    assert "quote_checkout" in str(description["paths"])
    assert "What can be bought" in description["definitions"]["payment_products"]["description"]
