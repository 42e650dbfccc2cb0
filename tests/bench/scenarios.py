"""What is measured: each scenario is a pgbench script; ``:n`` is another purchase in every call."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EVENT", "SCENARIOS", "Scenario"]

# as large as a provider's notification
EVENT = '{"object": "event", "data": {"lines": [' + ", ".join(f'"{"x" * 60}{n:02}"' for n in range(29)) + "]}}"

_USER = "bench.user_id(:n)"
_SESSION = "(select p.session_id from bench.purchases as p where p.n = :n)"
_REFERENCE = "(select p.reference from bench.purchases as p where p.n = :n)"
_OUTCOME = (
    "jsonb_build_object('provider', 'stripe', 'reference', {reference}, 'status', 'completed',"
    " 'provider_payment_id', 'pi_' || :n, 'amount', 500, 'currency', 'USD')"
)
_NEWS = "jsonb_build_object('id', 'evt_{about}_' || :n, 'type', 'checkout.session.completed', 'payload', :event::jsonb)"
_REFUND = (
    f"jsonb_build_object('provider', 'stripe', 'reference', {_REFERENCE}, 'refunds', jsonb_build_array("
    "jsonb_build_object('provider_refund_id', 're_' || :n, 'provider_payment_id', 'pi_' || :n,"
    " 'amount', 200, 'currency', 'USD', 'status', 'succeeded')))"
)


@dataclass(frozen=True)
class Scenario:
    """``before`` prepares the purchases of a run, ``script`` is one call; ``target`` is a ratio to ``rival``.

    ``calls`` is how often each client calls it, where that is not up to the run; ``at_once``: one call of one client
    does the work of all, and is counted as theirs.
    """

    name: str
    script: str
    before: str = ""
    target: tuple[float, ...] = ()
    rival: str = "floor"
    calls: int | None = None
    at_once: bool = False


_COMPLETE = f"select public.complete_checkout_session({_SESSION}, p_provider_payment_id => 'pi_' || :n);"
_APPLY = f"select public.apply_payment_outcome({_OUTCOME}, {_NEWS.format(about='paid')});"

# In this order: each works on what the ones before it have left.
SCENARIOS = (
    Scenario(
        "floor",
        f"insert into floor.sessions (user_id, product_id, amount, currency) values ({_USER}, 'x', 500, 'USD');",
    ),
    Scenario("naive create", f"select naive.get_or_create({_USER}, 'credits_100');"),
    Scenario("create", f"select public.get_or_create_checkout_session('credits_100', {_USER});", target=(0.85,)),
    Scenario("quote", "select public.quote_checkout('credits_100');"),
    Scenario("naive reuse", f"select naive.get_or_create({_USER}, 'credits_100');"),
    Scenario("reuse", f"select public.get_or_create_checkout_session('credits_100', {_USER});", target=(2.5, 5.0)),
    Scenario("latest", f"select * from public.get_latest_checkout_session({_USER});"),
    Scenario(
        "naive complete",
        "select naive.complete((select p.naive_id from bench.purchases as p where p.n = :n), 'pi_' || :n);",
        before="call bench.collect({first}, {last});",
    ),
    Scenario(
        "complete",
        _COMPLETE,
        target=(0.65,),
    ),
    Scenario("replay", _COMPLETE),
    Scenario(
        "outcome",
        _APPLY.format(reference=_REFERENCE),
        before="call bench.add_users({next_first}, {next_last}); call bench.collect({next_first}, {next_last});"
        " call bench.open_pages({next_first}, {next_last});",
        target=(0.50,),
    ),
    Scenario(
        "same outcome again",
        _APPLY.format(reference=_REFERENCE),
    ),
    Scenario("refund", f"select public.apply_payment_outcome({_REFUND}, {_NEWS.format(about='refund')});"),
    Scenario(
        "naive purchase",
        f"select naive.get_or_create({_USER}, 'credits_100') as id \\gset\nselect naive.complete(:id, 'pi_' || :n);",
        before="call bench.add_users({next_first}, {next_last});",
    ),
    Scenario(
        "purchase",
        f"select public.get_or_create_checkout_session('credits_100', {_USER}) as id \\gset\n"
        "select a ->> 'number' as number, a ->> 'reference' as reference\n"
        "from public.open_checkout_attempt(:id) as a \\gset\n"
        "select public.attach_checkout_attempt(:number, 'cs_' || :n, 'https://pay.test/cs_' || :n);\n"
        + _APPLY.format(reference=":reference::text"),
        target=(1.5,),
        rival="naive purchase",
    ),
    Scenario(
        "expire, per session",
        "select public.expire_old_checkout_sessions();",
        before="call bench.add_users({next_first}, {next_last}); call bench.add_due({next_first}, {next_last});",
        at_once=True,
    ),
    Scenario(
        "rows of create",
        f"select rows.create_session({_USER});",
        before="call bench.add_users({next_first}, {next_last});",
    ),
    Scenario(
        "rows of complete",
        f"select rows.complete_session({_SESSION}, 'pi_' || :n);",
        before="call bench.add_users({next_first}, {next_last}); call bench.collect({next_first}, {next_last});",
    ),
    Scenario(
        "rows of outcome",
        f"select rows.apply_outcome({_REFERENCE}, 'pi_' || :n, {_NEWS.format(about='paid')});",
        before="call bench.add_users({next_first}, {next_last}); call bench.collect({next_first}, {next_last});"
        " call bench.open_pages({next_first}, {next_last});",
    ),
    Scenario("report", "select public.payment_report(7);", calls=1),
)
