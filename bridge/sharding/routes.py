"""Where the router sends each function.

One of the shards answers (``first`` of an expression that lists them, likeliest first), or each of those that can be
reached (``total``, ``rows``, ``claims``, ``merged``), or all of them, or nobody (``every``, ``report``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ROUTES", "Route"]


@dataclass(frozen=True, slots=True)
class Route:
    """``places``: an SQL expression of the function's arguments, the shards to ask.

    ``before``, ``after``: statements around the call. ``order``: of the rows of all. ``merge``: a function of answers.
    """

    kind: Literal["first", "total", "rows", "claims", "merged", "every", "report"]
    places: str = "shard_router.all_shards()"
    before: str = ""
    after: str = ""
    order: str = ""
    merge: str = ""

    @property
    def runs_on_all(self) -> bool:
        """In parallel, and failing as a whole."""
        return self.kind in ("every", "report")


_USER = Route("first", "shard_router.at_user(p_user_id)")
_CALLER = Route("first", "shard_router.at_user(null)")
_SESSION = Route("first", "shard_router.at_session(p_session_id)")
_KEY = Route("first", "array[shard_router.enter(shard_router.logical_of_key(p_key))]")
_TOTAL = Route("total")
_ROWS = Route("rows")
_CLAIMS = Route("claims", "shard_router.any_shards()")

ROUTES: Mapping[str, Route] = {
    "abandon_checkout_attempt": Route("first", "shard_router.at_number(p_attempt)"),
    "add_session_note": _SESSION,
    "apply_payment_outcome": Route(
        "first",
        "shard_router.at_names(p_outcome ->> 'reference', shard_router.as_uuid(p_outcome ->> 'session_id'), "
        "p_outcome ->> 'provider', p_outcome ->> 'provider_session_id', p_outcome ->> 'provider_payment_id')",
        before="perform shard_router.claim_payment_of_outcome(p_outcome);",
        after="perform shard_router.forget_failure(p_outcome ->> 'provider', p_event, v_shard);",
    ),
    # over several shards calls go side by side, which is faster than one after the other in one transaction
    "apply_payment_outcomes": Route("first", before="if jsonb_typeof(p_calls) = 'array' then return null; end if;"),
    "attach_checkout_attempt": Route("first", "shard_router.at_number(p_attempt)"),
    "audit_payments": _ROWS,
    "begin_idempotent_request": _KEY,
    "cancel_checkout_session": _SESSION,
    "check_payment_invariants": Route("every", order="1, 2, 3"),
    "checkout_session_story": _SESSION,
    "claim_alerts": _CLAIMS,
    "claim_notifications": _CLAIMS,
    "claim_sessions_to_reconcile": _CLAIMS,
    "cleanup_completed_checkout_sessions": _TOTAL,
    "cleanup_idempotency_keys": _TOTAL,
    "close_review": _SESSION,
    "close_webhook_failure": Route("first"),
    "complete_checkout_session": Route(
        "first",
        _SESSION.places,
        before="""perform shard_router.claim_payment(
        case
            when nullif(p_stripe_session_id, '') is not null then 'stripe'
            else public.find_checkout_attempt(p_session_id => p_session_id) ->> 'provider'
        end,
        coalesce(nullif(p_provider_payment_id, ''), nullif(p_provider_session_id, ''), nullif(p_stripe_session_id, '')),
        shard_router.logical_of_id(p_session_id)
    );""",
    ),
    "enqueue_payment_reminders": _TOTAL,
    "expire_old_checkout_sessions": _TOTAL,
    "fail_checkout_session": _SESSION,
    "find_checkout_attempt": Route(
        "first", "shard_router.at_names(p_reference, p_session_id, p_provider, p_provider_session_id, null)"
    ),
    "finish_alert": Route("first", "shard_router.at_number(p_id)"),
    "finish_idempotent_request": _KEY,
    "finish_notification": Route("first", "shard_router.at_number(p_id)"),
    "finish_reconcile": _SESSION,
    "forget_heartbeat": _ROWS,
    "get_latest_checkout_session": Route(
        "first",
        _USER.places,
        # how bridges ask whether the database answers: no shard may make all bridges unready
        before="if p_user_id = '00000000-0000-0000-0000-000000000000' then return; end if;",
    ),
    "get_or_create_checkout_session": _USER,
    "list_checkout_sessions": Route("every", order="1 desc limit p_limit"),
    "list_dead_notifications": Route("every", order="1 limit p_limit"),
    "list_unsettled_pages": Route("every", order="1 limit p_limit"),
    "list_webhook_failures": Route("every", order="8, 2 limit p_limit"),
    "number_payment_invoices": _TOTAL,
    "open_checkout_attempt": _SESSION,
    "payment_health": Route("merged", merge="shard_router.merged_health"),
    "payment_history": _CALLER,
    "payment_report": Route("report", merge="shard_router.merged_report"),
    "payment_stats": _CALLER,
    "purge_old_payment_data": Route("merged", merge="shard_router.merged_sums"),
    "quote_checkout": Route(
        "first",
        "case when shard_router.caller_id() is null then shard_router.any_shards() else shard_router.at_user(null) end",
    ),
    # a beat is kept on the first shard that answers, and where it was while that one did not, it is forgotten
    "record_heartbeat": Route("first", after="perform shard_router.forget_heartbeat_elsewhere(p_name, v_shard);"),
    "record_webhook_failure": Route(
        "first",
        "array[shard_router.enter(shard_router.logical_of_event(p_provider, p_event ->> 'id', p_event -> 'payload'))]",
    ),
    "refund_checkout_session": _SESSION,
    "report_trouble": Route("first"),
    "retry_fulfilment": _SESSION,
    "retry_notification": Route("first", "shard_router.at_number(p_id)"),
    "spend_credits": _USER,
    "watch_payments": _ROWS,
}
