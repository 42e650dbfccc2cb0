"""The faults by name, and those that cannot happen to some provider."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bridge.errors import InvalidRequest

__all__ = ["CANNOT", "FAULTS", "NEVER", "STRIKES", "WAYS", "chosen", "could_not"]

WAYS: Mapping[str, str] = {
    "amount": "too little money is paid",
    "currency": "the money is of another currency",
    "decline": "the card is declined; half of these buyers try again",
    "late": "the buyer pays after the session has expired",
    "abandon": "the buyer never pays",
}
"""What buyers do instead of simply paying: one of them at most per purchase."""

STRIKES: Mapping[str, str] = {
    "crash": "kill -9 of a bridge, kill -9 of a worker",
    "database": "immediate stop of Postgres, kill -9 of one of its processes; elsewhere our connections are cut",
    "outage": "a provider answers 500, drops or garbles its answers, or is too slow",
}
"""What befalls everything that is under way."""

FAULTS: Mapping[str, str] = {
    "duplicate": "each message arrives two to four times at once",
    "reorder": "messages arrive in reverse, after the buyer's return, a refund's before the payment's",
    "drop": "no message about the payment ever arrives",
    "delay": "messages arrive seconds late",
    "forge": "a forged copy arrives first",
    "vanish": "the buyer pays and never comes back to the shop",
    **WAYS,
    "refund": "the payment is given back, all or half, at the provider or by POST /admin/refunds",
    **STRIKES,
}

CANNOT: Mapping[tuple[str, str], str] = {
    ("hypay", "drop"): "the buyer's return is its only news: without it nobody can ever know",
    ("hypay", "vanish"): "the same",
    ("hypay", "reorder"): "there is one message only",
    ("hypay", "currency"): "the page is signed, and buyers cannot change its currency",
    ("click", "currency"): "it takes UZS only",
}
NEVER: Mapping[tuple[str, ...], str] = {
    ("drop", "refund"): (
        "drop of a message about a refund: a paid session is not asked about again (all other messages are repeated "
        "until they are answered)"
    ),
    ("drop", "late"): "drop together with late: the provider is asked once after expiry, and no more",
}
"""What is never injected, and why; for every provider."""


def chosen(words: str) -> frozenset[str]:
    """``all``, ``none``, or names with commas. Raises InvalidRequest."""
    if words in ("all", "none"):
        return frozenset(FAULTS if words == "all" else ())
    names = frozenset(name.strip() for name in words.split(",") if name.strip())
    if unknown := sorted(names - FAULTS.keys()):
        raise InvalidRequest(f"There is no fault {unknown[0]!r}.", f"There are: {', '.join(FAULTS)}; all, none.")
    return names


def could_not(providers: Collection[str], faults: Collection[str]) -> list[str]:
    """What was wanted and cannot be injected, one line each."""
    lines = [
        f"{fault} at {provider}: {why}"
        for (provider, fault), why in CANNOT.items()
        if provider in providers and fault in faults
    ]
    return lines + [line for names, line in NEVER.items() if set(names) <= set(faults)]
