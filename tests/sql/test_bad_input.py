"""Garbage in every argument of every public function: refused with a reason, and nothing is written."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.support.database import Actor, Database, Row, outcome, refused

CONTROL = "a\x01b"
LINES = "a\nb"
LONG = "".join(
    hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(15_625)
)  # 1 MB, hardly compressible
DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
NOBODY = uuid.UUID(int=0)
LARGEST = 2**63 - 1


def says(reason: str, *values: Any, state: str = "PT422") -> list[tuple[Any, str]]:
    """These values are refused with this reason."""
    return [(value, f"{state} {reason}") for value in values]


def unreadable(state: str, *values: Any) -> list[tuple[Any, str]]:
    """Postgres itself refuses these values."""
    return [(value, state) for value in values]


INVALID = "invalid_input"
NO_UUID = unreadable("22P02", "abc", "", LONG)
NO_BIGINT = [
    *unreadable("22P02", "NaN", "Infinity", "1.5", "lots", ""),
    *unreadable("22003", "9223372036854775808", "9" * 99),
]
NO_INT = [*unreadable("22P02", "NaN", "1.5"), *unreadable("22003", "2147483648")]
NO_TIME = [*unreadable("22007", "soon", ""), *unreadable("22008", "294277-01-01", "2026-02-30")]
NO_INTERVAL = [*unreadable("22007", "soon"), *unreadable("22008", "1000000 years")]
IMPOSSIBLE_TIMES = ("infinity", "-infinity", "1969-12-31T23:59:59Z", "2020-01-01 BC", "9999-12-31")

PLAN = says("product_unknown", None, "", CONTROL, "credits_100\n", LONG, state="PT404")
PROVIDER = says("provider_unknown", "", "none", "STRIPE", CONTROL, "stripe\n", LONG)
CURRENCY = says("currency_unavailable", "", "US", "U$D", "ZZZ", "DOLLARS", "USD\x01", LONG)
COUPON = says("coupon_unknown", "", "NOSUCH", CONTROL, LONG)
SESSION = [*says("session_not_found", None, NOBODY, state="PT404"), *NO_UUID]
LIMIT = [*says(INVALID, None, -1, -(2**31)), *NO_INT]
SHORT_TEXT = says(INVALID, None, "", LONG)
NOTE = says(INVALID, None, "", "   ", CONTROL, LINES, "n" * 501, LONG)
EVENT = [
    *says("event_invalid", "5", "[]", "{}", "null", [1], {"type": "t", "payload": {}}, {"id": "e", "payload": {}}),
    *says("event_invalid", {"id": "e", "type": "t"}, {"id": "", "type": "t", "payload": {}}),
    *says("event_invalid", {"id": LONG, "type": "t", "payload": {}}, {"id": "e", "type": "t" * 256, "payload": {}}),
    *unreadable("22P02", "{"),
]

# function: argument: values that it must refuse
GARBAGE: dict[str, dict[str, list[tuple[Any, str]]]] = {
    "get_or_create_checkout_session": {
        "p_plan": PLAN,
        "p_price": [
            *says("price_mismatch", -5, 0, "5.01", "5.000000001", "NaN", "Infinity", "-Infinity"),
            *says("price_mismatch", "1e100000", "1e131071"),
            *unreadable("22P02", "five", ""), *unreadable("22003", "1e200000"),
        ],
        "p_provider": [*PROVIDER, *says("provider_unknown", None)],
        "p_currency": CURRENCY,
        "p_coupon": COUPON,
        "p_email": [
            *says(INVALID, "", "a", "a@b@c", "a b@c.test", "a\x01@b.test", "a@b.test\n", "a@b.test\x7f"),
            *says(INVALID, "a" * 314 + "@b.test", f"{LONG}@b.test"),
        ],
        "p_subject": says(INVALID, "", CONTROL, LINES, "s" * 201, LONG),
        "p_idempotency_key": says(INVALID, "", CONTROL, LINES, "k" * 256, LONG),
        "p_metadata": [
            *says(INVALID, "5", "[]", '"x"', "null", [1], {"a": LONG}, {"a": "x" * 8192}, '{"a": 1e100000}'),
            *unreadable("22P02", "{", "", "{'a': 1}", '{"a": NaN}'), *unreadable("22P05", '{"a": "\\u0000"}'),
            *unreadable("54001", DEEP),
        ],
    },
    "quote_checkout": {"p_plan": PLAN, "p_currency": CURRENCY, "p_coupon": COUPON},
    "get_latest_checkout_session": {"p_user_id": NO_UUID},
    "cancel_checkout_session": {"p_session_id": SESSION},
    "payment_history": {
        "p_page": [*says(INVALID, None, 0, -1, 1_000_001), *NO_INT],
        "p_page_size": [*says(INVALID, None, 0, -1, 101), *NO_INT],
        "p_status": says(INVALID, "", "PAID", CONTROL, LONG),
    },
    "open_checkout_attempt": {"p_session_id": SESSION, "p_provider": PROVIDER},
    "attach_checkout_attempt": {
        "p_attempt": [*says("attempt_not_found", None, -1, 0, LARGEST, state="PT404"), *NO_BIGINT],
        "p_provider_session_id": [*SHORT_TEXT, *says(INVALID, "p" * 256)],
        "p_checkout_url": [*SHORT_TEXT, *says(INVALID, "javascript:alert(1)", "https://pay.test/\r\nSet-Cookie: a=b")],
        "p_expires_at": [*says(INVALID, *IMPOSSIBLE_TIMES), *NO_TIME],
    },
    "abandon_checkout_attempt": {"p_attempt": NO_BIGINT},
    "find_checkout_attempt": {
        "p_session_id": SESSION,
        "p_user_id": [*says("not_your_session", NOBODY, state="PT403"), *NO_UUID],
    },
    "complete_checkout_session": {
        "p_session_id": SESSION,
        "p_amount": [*says(INVALID, -1, -LARGEST - 1), *NO_BIGINT],
        "p_currency": says(INVALID, "", "US", "U$D", "DOLLARS", "USD\n", CONTROL, LONG),
        "p_provider_payment_id": says(INVALID, "p" * 256, LONG),
        "p_provider_session_id": says(INVALID, "p" * 256, LONG),
        "p_stripe_session_id": says(INVALID, "p" * 256, LONG),
        "p_provider_customer_id": says(INVALID, LONG),
        "p_stripe_customer_id": says(INVALID, LONG),
        "p_paid_at": [*says(INVALID, *IMPOSSIBLE_TIMES), *NO_TIME],
    },
    "fail_checkout_session": {"p_session_id": SESSION},
    "refund_checkout_session": {
        "p_session_id": SESSION,
        "p_amount": [*says(INVALID, None, 0, -1, -LARGEST - 1), *NO_BIGINT],
        "p_provider_refund_id": [*SHORT_TEXT, *says(INVALID, "r" * 256)],
        "p_status": says(INVALID, None, "", "SUCCEEDED", "refused", CONTROL, LONG),
    },
    "retry_fulfilment": {"p_session_id": SESSION},
    "add_session_note": {"p_session_id": SESSION, "p_note": NOTE},
    "close_review": {
        "p_session_id": SESSION, "p_note": NOTE,
        "p_reasons": says("review_changed", "", "overpaid", CONTROL, LONG, state="PT409"),
    },
    "close_webhook_failure": {
        "p_provider": says("dead_letter_unknown", None, "", "paystack", CONTROL, LONG, state="PT404"),
        "p_event_id": says("dead_letter_unknown", None, "", "unknown", CONTROL, LONG, state="PT404"),
        "p_note": NOTE,
    },
    "list_dead_notifications": {"p_limit": LIMIT},
    "retry_notification": {
        "p_id": [*says("dead_letter_unknown", None, -1, 0, LARGEST, state="PT404"), *NO_BIGINT],
    },
    "apply_payment_outcome": {
        "p_outcome": [*says("outcome_invalid", None, "null", "5", '"x"', [1], {}), *unreadable("22P02", "{")],
        "p_event": EVENT,
    },
    "apply_payment_outcomes": {
        "p_calls": [*says(INVALID, None, "null", "5", '"x"', {}, "[]", [{}] * 33), *unreadable("22P02", "[")],
    },
    "record_webhook_failure": {
        "p_provider": says("event_invalid", None, "", CONTROL, LONG),
        "p_event": [*EVENT, *says("event_invalid", None)],
    },
    "list_webhook_failures": {"p_limit": LIMIT},
    "list_checkout_sessions": {
        "p_status": says(INVALID, "", "PAID", CONTROL, LONG),
        "p_in_review": unreadable("22P02", "maybe", ""),
        "p_user_id": NO_UUID,
        "p_since": [*says(INVALID, "infinity", "9999-12-31"), *NO_TIME],
        "p_before": NO_UUID,
        "p_limit": LIMIT,
    },
    "checkout_session_story": {"p_session_id": SESSION},
    "expire_old_checkout_sessions": {"p_limit": LIMIT},
    "cleanup_completed_checkout_sessions": {
        "p_older_than": [*says(INVALID, "-90 days", "23 hours"), *NO_INTERVAL],
        "p_limit": LIMIT,
    },
    "cleanup_idempotency_keys": {"p_older_than": [*says(INVALID, "-1 day"), *NO_INTERVAL], "p_limit": LIMIT},
    "purge_old_payment_data": {"p_limit": LIMIT},
    "claim_sessions_to_reconcile": {"p_limit": LIMIT},
    "list_unsettled_pages": {
        "p_since": [*says(INVALID, "infinity", "9999-12-31"), *NO_TIME], "p_after": NO_UUID, "p_limit": LIMIT,
    },
    "claim_notifications": {"p_limit": LIMIT, "p_kinds": unreadable("22P02", "receipt")},
    "claim_alerts": {"p_limit": LIMIT},
    "finish_alert": {
        "p_id": [*says("notification_not_claimed", None, -1, 0, LARGEST, state="PT404"), *NO_BIGINT],
    },
    "report_trouble": {
        "p_kind": says(INVALID, None, "", "stale_heartbeat", CONTROL, LONG),
        "p_subject": says(INVALID, None, "", "Stripe", "a b", CONTROL, LONG),
        "p_count": [*says(INVALID, None, 0, -1), *NO_INT],
    },
    "number_payment_invoices": {"p_limit": LIMIT},
    "finish_reconcile": {"p_session_id": SESSION, "p_result": says(INVALID, None, "", "done", CONTROL, LONG)},
    "finish_notification": {
        "p_id": [*says("notification_not_claimed", None, -1, 0, LARGEST, state="PT404"), *NO_BIGINT],
    },
    "begin_idempotent_request": {
        "p_key": [*SHORT_TEXT, *says(INVALID, "k" * 301)],
        "p_request_hash": [*SHORT_TEXT, *says(INVALID, "h" * 301)],
        "p_user_id": NO_UUID,
    },
    "finish_idempotent_request": {
        "p_key": says("idempotency_key_unknown", None, "", "unknown", LONG, state="PT404"),
        "p_status": says(INVALID, None, "", "done", CONTROL, LONG),
        "p_response": unreadable("22P02", "{"),
        "p_claim": NO_BIGINT,
    },
    "forget_heartbeat": {"p_name": [*SHORT_TEXT, *says(INVALID, "n" * 101)]},
    "record_heartbeat": {"p_name": [*SHORT_TEXT, *says(INVALID, "n" * 101)]},
    "spend_credits": {
        "p_user_id": [*says(INVALID, None), *says("insufficient_credits", NOBODY, state="PT402"), *NO_UUID],
        "p_amount": [*says(INVALID, None, 0, -1), *says("insufficient_credits", LARGEST, state="PT402"), *NO_BIGINT],
        "p_idempotency_key": [*SHORT_TEXT, *says(INVALID, "k" * 256)],
    },
    "payment_report": {"p_days": [*says(INVALID, None, 0, -1, 4000), *NO_INT]},
}  # fmt: skip
# functions that signed-in users call too
FOR_USERS = (
    "get_or_create_checkout_session", "quote_checkout", "get_latest_checkout_session", "cancel_checkout_session",
    "payment_history",
)  # fmt: skip
# of the service's functions, those that no garbage can reach or that have no arguments
WITHOUT_GARBAGE = {
    "enqueue_payment_reminders", "payment_health", "check_payment_invariants", "payment_stats", "watch_payments",
    "audit_payments",
}  # fmt: skip

OUTCOME_INVALID = "outcome_invalid"
BAD_OUTCOMES: dict[str, list[tuple[Any, str]]] = {
    "provider": says(OUTCOME_INVALID, None, "", CONTROL, LONG),
    "reference": says("session_not_found", None, "", CONTROL, LONG, state="PT404"),
    "session_id": [
        *says(OUTCOME_INVALID, "abc", 5, [1], {"a": 1}),
        *says("session_not_found", str(NOBODY), state="PT404"),
    ],
    "provider_session_id": says(OUTCOME_INVALID, "p" * 256, LONG),
    "status": says(OUTCOME_INVALID, None, "", "maybe", "COMPLETED", 5, LONG),
    "provider_payment_id": says(OUTCOME_INVALID, None, "", "p" * 256, LONG),
    "amount": [
        *says(OUTCOME_INVALID, None, -1, 1.5, 1e30, "9223372036854775808", "lots", "NaN", "Infinity"),
        *says(OUTCOME_INVALID, "", True, [5], {"a": 1}),
    ],
    "currency": says(OUTCOME_INVALID, None, "", 5, "US", "U$D", "DOLLARS", "USD\n", CONTROL, LONG),
    "paid_at": says(OUTCOME_INVALID, *IMPOSSIBLE_TIMES, "soon", "", 1_760_000_000, "294277-01-01"),
    "provider_customer_id": says(OUTCOME_INVALID, LONG),
    "disputed": says(OUTCOME_INVALID, "maybe", 5, []),
    "source": says(OUTCOME_INVALID, "", "x", LONG),
    "refunds": [
        *says(OUTCOME_INVALID, {}, "x", 5, [1], [None], [{}], [[]]),
        *says(OUTCOME_INVALID, *(
            [{"provider_refund_id": "r", "amount": 1} | wrong]
            for wrong in (
                {"provider_refund_id": None}, {"provider_refund_id": ""}, {"provider_refund_id": LONG},
                {"amount": None}, {"amount": 0}, {"amount": -1}, {"amount": 1.5}, {"amount": "NaN"}, {"amount": 10**18},
                {"status": "maybe"}, {"status": "refused"}, {"kind": "gift"},
            )
        )),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """One of everything that the functions take."""

    user: uuid.UUID
    session: uuid.UUID  # pending, with a page
    attempt: Row  # that page
    new_attempt: int  # an attempt without a page
    paid: uuid.UUID
    unfulfilled: uuid.UUID
    notification: int
    alert: int
    dead: int  # a letter that was given up

    def call(self, function: str) -> Row:
        """Arguments that the function accepts."""
        arguments: dict[str, Row] = {
            "get_or_create_checkout_session": {"p_plan": "credits_100"},
            "quote_checkout": {"p_plan": "credits_100"},
            "cancel_checkout_session": {"p_session_id": self.session},
            "open_checkout_attempt": {"p_session_id": self.session},
            "attach_checkout_attempt": {
                "p_attempt": self.new_attempt, "p_provider_session_id": "cs_new", "p_checkout_url": "https://pay.test/new",
            },
            "abandon_checkout_attempt": {"p_attempt": self.new_attempt, "p_error_code": "provider_error"},
            "find_checkout_attempt": {"p_session_id": self.session},
            "complete_checkout_session": {"p_session_id": self.session, "p_provider_payment_id": "pi_good"},
            "fail_checkout_session": {"p_session_id": self.session, "p_error_code": "declined"},
            "refund_checkout_session": {"p_session_id": self.paid, "p_provider_refund_id": "re_good", "p_amount": 1},
            "retry_fulfilment": {"p_session_id": self.unfulfilled},
            "add_session_note": {"p_session_id": self.unfulfilled, "p_note": "Ann: a note"},
            "close_review": {"p_session_id": self.unfulfilled, "p_note": "Ann: settled"},
            "close_webhook_failure": {"p_provider": "stripe", "p_event_id": "evt_dead", "p_note": "Ann: settled"},
            "retry_notification": {"p_id": self.dead},
            "checkout_session_story": {"p_session_id": self.unfulfilled},
            "apply_payment_outcome": {"p_outcome": outcome(self.attempt)},
            "apply_payment_outcomes": {"p_calls": [{"outcome": outcome(self.attempt)}]},
            "record_webhook_failure": {
                "p_provider": "stripe", "p_event": {"id": "e", "type": "t", "payload": {}}, "p_error": "no",
                "p_retryable": True,
            },
            "finish_reconcile": {"p_session_id": self.session, "p_result": "asked"},
            "finish_notification": {"p_id": self.notification},
            "finish_alert": {"p_id": self.alert},
            "report_trouble": {"p_kind": "signature_failures", "p_subject": "stripe", "p_count": 1},
            "begin_idempotent_request": {"p_key": "new", "p_request_hash": "h"},
            "finish_idempotent_request": {"p_key": "begun", "p_status": "completed", "p_response": {}},
            "forget_heartbeat": {"p_name": "reconcile"},
            "record_heartbeat": {"p_name": "reconcile"},
            "spend_credits": {"p_user_id": self.user, "p_amount": 1, "p_reason": "x", "p_idempotency_key": "k"},
        }  # fmt: skip
        return arguments.get(function, {})


@pytest.fixture
def world(db: Database, user: uuid.UUID) -> World:
    service = db.as_service()
    paid = db.new_session(user, p_subject="paid", p_email="a@b.test")
    db.complete(paid, p_provider_payment_id="pi_paid")
    (notification,) = service.rpc("claim_notifications")
    session = db.new_session(user)
    attempt = db.open_attempt(session)
    new_attempt = service.rpc("open_checkout_attempt", p_session_id=db.new_session())
    unfulfilled = db.new_session(p_email="c@d.test")
    db.complete(unfulfilled, p_provider_payment_id="pi_unfulfilled")
    db.sql(
        "update public.payment_checkout_sessions set fulfilment_status = 'failed', fulfilment = null,"
        " kind = 'none', review_reason = 'fulfilment_failed' where id = %s",
        unfulfilled,
    )
    service.rpc("begin_idempotent_request", p_key="begun", p_request_hash="h")
    db.sql("insert into payments.heartbeats values ('gone', now() - interval '1 hour')")
    service.rpc("watch_payments")
    (alert,) = service.rpc("claim_alerts")
    dead = {"id": "evt_dead", "type": "t", "payload": {}}
    service.rpc("record_webhook_failure", p_provider="stripe", p_event=dead, p_error="no", p_retryable=False)
    (letter,) = db.sql(
        "update payments.notifications set status = 'dead', finished_at = now() where session_id = %s returning id",
        unfulfilled,
    )
    return World(
        user,
        session,
        attempt,
        new_attempt["number"],
        paid,
        unfulfilled,
        notification["id"],
        alert["id"],
        letter["id"],
    )


def callers(db: Database, world: World, function: str) -> Iterator[tuple[Actor, Row]]:
    """Everybody who may call the function, with what each must say in addition."""
    if function in FOR_USERS:
        yield db.as_user(world.user), {}
    if function != "payment_history":  # the signed-in user's own
        takes_user = function in ("get_or_create_checkout_session", "get_latest_checkout_session")
        yield db.as_service(), {"p_user_id": world.user} if takes_user else {}


def call_with(caller: Actor, function: str, good: Row, argument: str, value: Any) -> Any:
    return caller.rpc(function, **good | {argument: value})


def refusal(act: Callable[[], Any]) -> str:
    """How a call was refused, in short; what it answered if it was not."""
    try:
        answer = act()
    except psycopg.Error as error:
        if not str(error.sqlstate).startswith("PT"):
            return str(error.sqlstate)
        length = len(error.diag.message_primary or "")
        echo = f", with a message of {length} characters" if length > 500 else ""
        return f"{error.sqlstate} {error.diag.message_detail}{echo}"
    return f"accepted: {answer!r:.60}"


def check(cases: list[tuple[Any, str]], attempt: Callable[[Any], Any]) -> None:
    """Try every value; show all that are not refused as they must be."""
    answers = [(value, refusal(partial(attempt, value)), wanted) for value, wanted in cases]
    assert [(f"{value!r:.40}", answer) for value, answer, wanted in answers if answer != wanted] == []


@pytest.mark.parametrize(
    ("function", "argument"),
    [(function, argument) for function, arguments in GARBAGE.items() for argument in arguments],
    ids=str,
)
def test_garbage_in_an_argument_is_refused_and_leaves_no_trace(
    db: Database, world: World, function: str, argument: str
) -> None:
    before = db.everything()
    for caller, also in callers(db, world, function):
        good = world.call(function) | also
        check(GARBAGE[function][argument], partial(call_with, caller, function, good, argument))
    assert db.everything() == before


@pytest.mark.parametrize("function", GARBAGE)
def test_the_same_call_without_garbage_is_accepted(db: Database, world: World, function: str) -> None:
    caller, also = next(callers(db, world, function))
    caller.rpc(function, **world.call(function) | also)


@pytest.mark.parametrize("field", BAD_OUTCOMES)
def test_garbage_in_an_outcome_is_refused_and_leaves_no_trace(db: Database, world: World, field: str) -> None:
    said = outcome(world.attempt)
    if field == "provider":  # the only thing that names the session is then its id
        said |= {"reference": None, "session_id": str(world.session)}
    before = db.everything()
    check(
        BAD_OUTCOMES[field],
        lambda value: db.as_service().rpc("apply_payment_outcome", p_outcome=said | {field: value}),
    )
    assert db.everything() == before


def test_no_public_function_is_forgotten(db: Database) -> None:
    callable_ = db.sql(
        "select distinct p.proname from pg_proc as p where p.pronamespace = 'public'::regnamespace"
        " and p.prosrc ~ 'payments\\.'"
    )
    assert {row["proname"] for row in callable_} == GARBAGE.keys() | WITHOUT_GARBAGE


def test_a_user_of_another_or_of_no_shape_is_refused(db: Database, world: World) -> None:
    def create(actor: Actor, **arguments: Any) -> Any:
        return actor.rpc("get_or_create_checkout_session", p_plan="credits_100", **arguments)

    before = db.everything()
    check(
        [*says("not_your_session", NOBODY, state="PT403"), *NO_UUID],
        lambda value: create(db.as_user(world.user), p_user_id=value),
    )
    check(
        [*says("user_required", None), *says("user_unknown", NOBODY), *NO_UUID],
        lambda value: create(db.as_service(), p_user_id=value),
    )
    check(unreadable("22P02", "abc"), lambda value: create(db.as_user(value)))
    check(
        [*says("not_signed_in", None, state="PT401"), *unreadable("22P02", "")],
        lambda value: create(Actor(db.url("authenticator"), "authenticated", {"sub": value})),
    )
    assert db.everything() == before


@pytest.mark.parametrize("claim", ["x" * 400 + "@b.test", "a\x01@b.test"], ids=["long", "control"])
def test_a_token_whose_email_is_no_address_buys_without_one(db: Database, user: uuid.UUID, claim: Any) -> None:
    session_id = db.as_user(user, email=claim).rpc("get_or_create_checkout_session", p_plan="credits_100")
    assert db.session(session_id)["email"] is None


@pytest.mark.parametrize("code", [LONG, "c" * 256], ids=["1 MB", "256 characters"])
def test_the_code_of_a_failure_is_kept_short_like_its_message(db: Database, world: World, code: str) -> None:
    service = db.as_service()
    service.rpc("abandon_checkout_attempt", p_attempt=world.new_attempt, p_error_code=code, p_error_message=LONG)
    db.apply(world.attempt, "failed", error_code=code, error_message=LONG)
    other = db.new_session()
    service.rpc("fail_checkout_session", p_session_id=other, p_error_code=code, p_error_message=LONG)
    longest = db.sql(
        "select max(length(f.error_code)) as code, max(length(f.error_message)) as message from ("
        "select a.error_code, a.error_message from payments.attempts as a union all"
        " select s.error_code, s.error_message from public.payment_checkout_sessions as s) as f"
    )
    assert longest[0]["message"] == 500
    assert longest[0]["code"] <= 255


@pytest.mark.parametrize("amount", [LARGEST, LARGEST - 1, 501])
def test_a_refund_far_above_the_payment_goes_to_review_whatever_was_refunded_before(
    db: Database, world: World, amount: int
) -> None:
    service = db.as_service()
    service.rpc("refund_checkout_session", p_session_id=world.paid, p_provider_refund_id="re_1", p_amount=100)
    answer = service.rpc(
        "refund_checkout_session", p_session_id=world.paid, p_provider_refund_id="re_2", p_amount=amount
    )
    assert (answer["refunded_amount"], answer["review_reason"]) == (100, "refund_exceeds_payment")


def test_refunds_that_overtook_their_payment_cannot_add_up_to_more_than_a_number_holds(
    db: Database, world: World
) -> None:
    for number in range(11):
        said = [{"provider_refund_id": f"re_{number}", "amount": 10**18 - 1, "status": "succeeded"}]
        db.apply(world.attempt, "pending", refunds=said)
    answer = db.apply(world.attempt)
    assert "refund_exceeds_payment" in answer["review_reason"]
    assert len(db.captures(world.session)) == 1


def test_a_refund_for_a_deleted_buyer_is_kept_in_a_currency_that_could_be_one(db: Database, world: World) -> None:
    db.sql("delete from auth.users where id = %s", world.user)
    said = [{"provider_refund_id": "re_1", "amount": 5, "status": "succeeded"}]
    before = db.everything()
    check(
        says(OUTCOME_INVALID, "", "U$D", "DOLLARS", LONG),
        lambda value: db.as_service().rpc(
            "apply_payment_outcome",
            p_outcome={
                "provider": "stripe",
                "reference": world.attempt["reference"],
                "refunds": said,
                "currency": value,
            },
        ),
    )
    assert db.everything() == before


class TestCatalogue:
    """What the service writes directly is held to the tables' own rules."""

    @pytest.mark.parametrize(
        ("column", "value", "state"),
        [("amount", "0", "23514"), ("amount", "-1", "23514"),
         ("amount", "NaN", "22P02"), ("amount", "Infinity", "22P02"),
         ("amount", "9223372036854775808", "22003"), ("amount", None, "23502"),
         ("currency", "usd", "23514"), ("currency", "US", "23514"), ("currency", "U$D", "23514"),
         ("currency", "USD\n", "23514"), ("currency", "", "23514"), ("product_id", "nosuch", "23503")],
    )  # fmt: skip
    def test_a_price_that_cannot_be_is_refused(self, db: Database, column: str, value: Any, state: str) -> None:
        price = {"product_id": "credits_100", "currency": "EUR", "amount": "450"} | {column: value}
        before = db.everything()
        with refused(state):
            db.as_service().sql(
                "insert into public.payment_prices (product_id, currency, amount) values (%s, %s, %s)", *price.values()
            )
        assert db.everything() == before

    @pytest.mark.parametrize(
        ("column", "value", "state"),
        [("id", "", "23514"), ("id", CONTROL, "23514"), ("id", "x\n", "23514"), ("id", "Big", "23514"),
         ("id", "x" * 64, "23514"), ("kind", "nosuch", "23503"), ("name", "", "23514"), ("name", "n" * 201, "23514"),
         ("terms", "[]", "23514"), ("terms", "{}", "23514"), ("terms", '{"credits": 0}', "23514"),
         ("terms", '{"credits": -5}', "23514"), ("terms", '{"credits": 1.5}', "23514"),
         ("terms", '{"credits": 1e30}', "23514"), ("terms", '{"credits": "NaN"}', "23514"), ("terms", "{", "22P02")],
    )  # fmt: skip
    def test_a_product_that_cannot_be_is_refused(self, db: Database, column: str, value: Any, state: str) -> None:
        product = {"id": "x", "kind": "credits", "name": "X", "terms": '{"credits": 5}'} | {column: value}
        before = db.everything()
        with refused(state):
            db.as_service().sql(
                "insert into public.payment_products (id, kind, name, terms) values (%s, %s, %s, %s)", *product.values()
            )
        assert db.everything() == before

    def test_the_largest_price_can_be_bought_and_given_back(self, db: Database, user: uuid.UUID) -> None:
        db.new_product("island", USD=LARGEST)
        session_id = db.new_session(user, "island", p_price="92233720368547758.07")
        db.complete(session_id, p_provider_payment_id="pi_1", p_amount=LARGEST)
        answer = db.as_service().rpc(
            "refund_checkout_session", p_session_id=session_id, p_provider_refund_id="re_1", p_amount=LARGEST
        )
        assert (answer["status"], answer["refunded_amount"]) == ("refunded", LARGEST)
        assert db.as_service().rpc("check_payment_invariants") == []
        assert db.as_service().rpc("payment_report")["totals"]["revenue"] == {"USD": LARGEST}
