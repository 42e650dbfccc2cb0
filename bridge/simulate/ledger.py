"""The books of the providers beside those of the database, one line per purchase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from bridge.simulate.database import Database
from bridge.simulate.records import Record
from bridge.simulators.base import Simulator

__all__ = ["Fate", "invariants", "news_of", "read_fates", "tell_story"]

# by user, because each purchase has a buyer of its own: what was granted under any other name is seen too
_FACTS = """
with wanted as (select unnest(%s::uuid[]) as user_id),

sessions as (
    select
        s.user_id,
        array_agg(s.status order by s.id) as statuses,
        array_remove(array_agg(s.review_reason), null) as reviews,
        min(s.completed_at) as completed_at
    from public.payment_checkout_sessions as s
    inner join wanted as w on s.user_id = w.user_id
    group by s.user_id
),

credits as (
    select e.user_id, sum(e.amount) as granted
    from public.payment_credit_entries as e
    inner join wanted as w on e.user_id = w.user_id
    where e.reason = 'purchase'
    group by e.user_id
),

periods as (
    select p.user_id, count(*) as granted
    from payments.subscription_periods as p
    inner join wanted as w on p.user_id = w.user_id
    group by p.user_id
),

places as (
    select m.user_id, count(*) as granted
    from public.payment_group_members as m
    inner join wanted as w on m.user_id = w.user_id
    group by m.user_id
),

refunds as (
    select
        r.user_id,
        sum(r.amount) filter (where r.status = 'succeeded') as succeeded,
        sum(r.amount) filter (where r.status = 'pending') as pending
    from public.payment_refunds as r
    inner join wanted as w on r.user_id = w.user_id
    group by r.user_id
)

select
    w.user_id,
    coalesce(s.statuses, '{}') as statuses,
    coalesce(s.reviews, '{}') as reviews,
    s.completed_at,
    (coalesce(c.granted, 0) / 100.0 + coalesce(p.granted, 0) + coalesce(m.granted, 0))::float as grants,
    coalesce(r.succeeded, 0)::bigint as refunded,
    coalesce(r.pending, 0)::bigint as pending
from wanted as w
left join sessions as s on w.user_id = s.user_id
left join credits as c on w.user_id = c.user_id
left join periods as p on w.user_id = p.user_id
left join places as m on w.user_id = m.user_id
left join refunds as r on w.user_id = r.user_id
"""

_NEWS = """
select
    s.user_id,
    bool_or(s.completed_at is not null) as completed,
    bool_or(s.review_reason is not null) as in_review
from public.payment_checkout_sessions as s
where s.user_id = any(%s)
group by s.user_id
having bool_or(s.completed_at is not null or s.review_reason is not null)
    or bool_and(s.status in ('failed', 'expired', 'cancelled'))
"""

_STORY = """
select e.created_at as at, format('%%s -> %%s by %%s', e.from_status, e.to_status, e.source)
    || coalesce(', ' || e.reason, '') || coalesce(': ' || e.detail, '') as what
from payments.session_events as e
where e.session_id = any(%(sessions)s)
union all
select a.created_at,
    format('attempt %%s at %%s, now %%s, asked %%s times', a.number, a.provider, a.status, a.reconcile_tries)
from payments.attempts as a
where a.session_id = any(%(sessions)s)
union all
select c.created_at, format('capture %%s: %%s %%s, %%s', c.provider_payment_id, c.amount, c.currency, c.disposition)
from payments.captures as c
where c.session_id = any(%(sessions)s)
union all
select w.received_at, format('webhook %%s %%s: %%s, %%s deliveries', w.type, w.event_id, w.status, w.deliveries)
    || coalesce(', ' || w.error, '')
from payments.webhook_events as w
where w.session_id = any(%(sessions)s)
union all
select e.created_at, format('credits %%s for %%s', e.amount, e.reason)
from public.payment_credit_entries as e
where e.user_id = %(user)s
union all
select p.created_at, format('subscription from %%s to %%s', p.starts_at, p.ends_at)
from payments.subscription_periods as p
where p.user_id = %(user)s
union all
select r.created_at, format('refund %%s: %%s, %%s', r.provider_refund_id, r.amount, r.status)
from public.payment_refunds as r
where r.user_id = %(user)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a purchase. ``taken`` and ``given_back`` are the provider's books, the rest is the database's;
    minor units. ``grants``: how many times the buyer has got what was bought."""

    record: Record
    taken: int
    given_back: int
    statuses: Sequence[str]
    reviews: Sequence[str]
    completed_at: datetime | None
    grants: float
    refunded: int
    pending: int

    @property
    def is_right_money(self) -> bool:
        return self.taken >= self.record.price and self.record.purchase.way not in ("amount", "currency")

    @property
    def repaired_after(self) -> float | None:
        """Seconds from the buyer's payment to its fulfilment."""
        if self.completed_at is None or self.record.paid_at is None:
            return None
        return max(0.0, self.completed_at.timestamp() - self.record.paid_at)


async def read_fates(database: Database, accounts: Mapping[str, Simulator], records: Iterable[Record]) -> list[Fate]:
    """One line per purchase that has begun."""
    by_user = {record.user_id: record for record in records}
    fates = []
    for row in await database.rows(_FACTS, list(by_user)):
        record = by_user[row.pop("user_id")]
        taken, given_back = _books(accounts[record.purchase.provider], record.pages)
        fates.append(Fate(record=record, taken=taken, given_back=given_back, **row))
    return sorted(fates, key=lambda fate: fate.record.purchase.number)


async def news_of(
    database: Database, accounts: Mapping[str, Simulator], waiting: Iterable[Record]
) -> tuple[set[UUID], set[UUID]]:
    """Users about whom the database has nothing more to learn, and those of them who have got what they paid for."""
    by_user = {record.user_id: record for record in waiting}
    finished, completed = set(), set()
    for row in await database.rows(_NEWS, list(by_user)):
        record = by_user[row["user_id"]]
        if row["completed"]:
            completed.add(record.user_id)
        # money may still come for a session that has ended
        ended = row["completed"] or row["in_review"] or not _books(accounts[record.purchase.provider], record.pages)[0]
        if ended:
            finished.add(record.user_id)
    return finished, completed


async def invariants(database: Database) -> list[dict[str, str]]:
    """Guarantees that do not hold."""
    return await database.rows("select * from public.check_payment_invariants()")


async def tell_story(database: Database, record: Record) -> list[tuple[datetime, str]]:
    """All that the database knows of a purchase, in order, and what was seen from outside."""
    rows = await database.rows(_STORY, sessions=record.sessions, user=record.user_id)
    seen = [(datetime.fromtimestamp(at).astimezone(), what) for at, what in record.story]
    return sorted([*seen, *((row["at"], f"[database] {row['what']}") for row in rows)], key=lambda line: line[0])


def _books(account: Simulator, pages: Sequence[str]) -> tuple[int, int]:
    return sum(account.taken(page) for page in pages), sum(account.given_back(page) for page in pages)
