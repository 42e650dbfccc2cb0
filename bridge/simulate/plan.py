"""Who buys what, what goes wrong with it, and when things are killed: drawn from a seed, the same every time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from bridge.simulate.faults import CANNOT, FAULTS, STRIKES, WAYS

__all__ = ["Plan", "Purchase", "Strike", "draw"]

PRODUCTS = ("credits", "subscription", "group")
# per purchase, at rate 1; the share of purchases that meet it is this times the rate
WEIGHTS = {**dict.fromkeys(FAULTS, 1.0), **dict.fromkeys(WAYS, 0.25), "refund": 0.5}
# strikes per purchase, at rate 1
STRIKE_WEIGHTS = {"bridge": 0.1, "worker": 0.1, "database": 0.02, "outage": 0.05}
TROUBLES = ("errors", "lost", "cut", "garbled", "slow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One buyer's intent, and what will go wrong. Times in seconds."""

    number: int
    provider: str
    product: str
    faults: frozenset[str]
    way: str
    """One of WAYS, or ``pay``."""
    tries_again: bool
    comes_back: bool
    verifies: bool
    """Whether the shop's page, to which the buyer comes back, calls POST /verify."""
    keyed: bool
    """Whether the app sends an Idempotency-Key."""
    half_back: bool
    back_by_bridge: bool
    copies: int
    thinks: float
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """Something that befalls all that is under way, ``delay`` seconds after the purchase ``after`` has begun."""

    kind: Literal["bridge", "worker", "database", "outage"]
    after: int
    delay: float
    which: int
    provider: str
    trouble: str
    seconds: float

    @property
    def fault(self) -> str:
        return "crash" if self.kind in ("bridge", "worker") else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is decided beforehand. Interleavings are not: they are the machine's."""

    seed: int
    purchases: tuple[Purchase, ...]
    strikes: tuple[Strike, ...]


def draw(seed: int, purchases: int, faults: Collection[str], rate: float, providers: Collection[str]) -> Plan:
    """The same arguments give the same plan, and more purchases begin like fewer."""
    names = sorted(providers)
    return Plan(
        seed=seed,
        purchases=tuple(_purchase(seed, number, faults, rate, names) for number in range(1, purchases + 1)),
        strikes=tuple(_strikes(seed, purchases, faults, rate, names)),
    )


def _purchase(seed: int, number: int, faults: Collection[str], rate: float, providers: list[str]) -> Purchase:
    dice = _dice(f"{seed}:{number}")
    provider, product = dice.choice(providers), dice.choices(PRODUCTS, (6, 3, 1))[0]
    thrown = {name: dice.random() for name in FAULTS}  # all of them: choosing fewer faults changes no other's fate
    possible = [name for name in FAULTS if name in faults and name not in STRIKES and (provider, name) not in CANNOT]
    struck = {name for name in possible if thrown[name] < rate * WEIGHTS[name]}
    ways = [name for name in WAYS if name in struck]
    way = ways[0] if ways else "pay"
    struck -= set(ways[1:])
    if way == "late":
        struck.discard("drop")
    if way in ("amount", "currency", "abandon"):
        struck -= {"refund", "vanish"}
    if way == "abandon":
        struck -= {"duplicate", "reorder", "drop", "delay", "forge"}
    return Purchase(
        number=number,
        provider=provider,
        product=product,
        faults=frozenset(struck),
        way=way,
        tries_again=dice.random() < 0.5,
        comes_back="vanish" not in struck,
        verifies=dice.random() < 0.3 and "vanish" not in struck,
        keyed=dice.random() < 0.5,
        half_back=dice.random() < 0.5,
        back_by_bridge=dice.random() < 0.5,
        copies=dice.randint(2, 4),
        thinks=dice.uniform(0.0, 0.3),
        delay=dice.uniform(0.5, 4.0),
    )


def _strikes(seed: int, purchases: int, faults: Collection[str], rate: float, providers: list[str]) -> Iterator[Strike]:
    dice = _dice(f"{seed}:strikes")
    kinds: tuple[Literal["bridge", "worker", "database", "outage"], ...] = ("bridge", "worker", "database", "outage")
    for kind in kinds:
        wanted = ("crash" if kind in ("bridge", "worker") else kind) in faults and rate > 0
        for _ in range(max(1, round(purchases * rate * STRIKE_WEIGHTS[kind])) if wanted else 0):
            yield Strike(
                kind=kind,
                after=dice.randint(max(1, purchases // 20), purchases),
                delay=dice.uniform(0.0, 0.5),
                which=dice.randrange(2),
                provider=dice.choice(providers),
                trouble=dice.choices(TROUBLES, (4, 2, 2, 2, 1))[0],
                seconds=dice.uniform(0.3, 2.0),
            )


def _dice(seed: str) -> Random:
    return Random(seed)  # noqa: S311 # a game that must be repeatable, no secret
