"""Buyers who buy, providers who tell, operators who give money back: over HTTP, as a shop would see them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from itertools import count
from typing import Any
from uuid import UUID

import httpx

from bridge.simulate.accounts import AsyncTell, decline, is_refused, is_taken_in, pay
from bridge.simulate.database import PREFIX
from bridge.simulate.records import Counts, Record
from bridge.simulate.stage import Stage
from bridge.simulators.base import CannotDo, Delivery, Simulator
from bridge.simulators.paypal import PayPalSimulator

__all__ = ["Play"]

_PATIENCE_SECONDS = 120.0  # of buyers, browsers and operators with a shop that does not answer
_AGAIN_SECONDS = (0.3, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0, 15.0, 15.0, 30.0)
"""When a provider sends again what was not taken in; then it gives up."""
_TRIES_WITH_A_KEY = 3


class Play:
    """Plays purchases on a stage. ``under_way`` are those that a strike would hit."""

    def __init__(self, stage: Stage, counts: Counts, client: httpx.AsyncClient) -> None:
        self._stage = stage
        self._counts = counts
        self._client = client
        self._turn = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_order: dict[str, Record] = {}
        self._news_came = asyncio.Condition()
        self._finished: set[UUID] = set()
        self._completed: set[UUID] = set()
        self._is_over = False
        self.under_way: dict[int, Record] = {}

    async def play(self, record: Record) -> None:
        """From the shop's button to the buyer's return; what takes longer goes on in the background."""
        self.under_way[record.purchase.number] = record
        self._counts.begun += 1
        self._counts.injected.update(record.purchase.faults)
        try:
            await self._unless_surprised(record, self._play(record))
        finally:
            self._counts.played += 1
            self._later(record, self._leaves(record))

    async def finish(self) -> None:
        """Wait for what goes on in the background."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def give_up(self) -> None:
        """Nobody waits any longer for purchases to be paid."""
        async with self._news_came:
            self._is_over = True
            self._news_came.notify_all()

    def stop(self) -> None:
        """Let nothing go on."""
        for task in self._tasks:
            task.cancel()

    async def heard_of(self, finished: set[UUID], completed: set[UUID]) -> None:
        """The database has nothing more to learn about these users' purchases, and some of them are completed."""
        async with self._news_came:
            self._finished |= finished
            self._completed |= completed
            self._news_came.notify_all()

    async def deliver_captures(self) -> None:
        """PayPal tells of a capture when the bridge has taken the money."""
        account = self._stage.accounts.get("paypal")
        while isinstance(account, PayPalSimulator):
            told, account.captured = account.captured, []
            for delivery in told:
                record = self._by_order.get(_order_of(delivery))
                if record and "drop" not in record.purchase.faults:
                    self._later(record, self._post(record, [delivery], reverse=False))
            await asyncio.sleep(0.1)

    # the buyer

    async def _play(self, record: Record) -> None:
        purchase, account = record.purchase, self._account(record)
        if not await self._check_out(record):
            return
        await asyncio.sleep(purchase.thinks)
        if purchase.way == "abandon":
            record.tell("the buyer leaves without paying")
            return
        if purchase.way == "late":
            await self._stage.database.lapse(record.sessions[-1])
            record.tell("the session has expired")
        if purchase.way == "decline":
            record.tell("the card is declined")
            messages = await decline(account, record.pages[-1], self._teller(record))
            await self._news(record, messages)
            if not purchase.tries_again or not await self._check_out(record):
                return
        await self._pay(record)

    async def _check_out(self, record: Record) -> bool:
        """Press the shop's button until there is a page; False when there will be none."""
        purchase = record.purchase
        body = {
            "plan": f"{PREFIX}{purchase.product}",
            "provider": purchase.provider,
            "currency": self._account(record).currency,
        }
        deadline, key = time.monotonic() + _PATIENCE_SECONDS, 0
        for number in count(1):
            headers = {"Authorization": f"Bearer {record.token}"}
            if purchase.keyed:  # who has waited too long for the same request begins a new one
                key = len(record.sessions) * 1000 + number // _TRIES_WITH_A_KEY
                headers["Idempotency-Key"] = f"simulation-{record.user_id}-{key}"
            answer = await self._ask("POST", "/checkout", json=body, headers=headers)
            if answer is not None and answer.is_success:
                return self._opened(record, answer.json())
            record.tell(f"POST /checkout: {_said(answer)}")
            if time.monotonic() > deadline or (answer is not None and answer.status_code in (401, 403, 404, 422)):
                return False
            await asyncio.sleep(min(0.2 * number, 2.0))
        raise AssertionError("unreachable")

    def _opened(self, record: Record, answer: Mapping[str, Any]) -> bool:
        session, page = UUID(answer["session_id"]), answer["checkout_url"]
        if session not in record.sessions:
            record.sessions.append(session)
        if page is None:
            record.tell(f"there is nothing to pay: the session is {answer['status']}")
            return False
        if page not in record.pages:
            record.pages.append(page)
        record.price = answer["amount"]
        record.tell(f"session {session}, page {page[:60]}")
        if record.purchase.provider == "paypal":
            self._by_order[page.rpartition("=")[2]] = record
        return True

    async def _pay(self, record: Record) -> None:
        purchase, account = record.purchase, self._account(record)
        for _ in range(_TRIES_WITH_A_KEY):
            messages = await pay(account, record.pages[-1], self._teller(record), purchase.way, record.price)
            if messages is not None or purchase.way in ("amount", "late"):
                break
            await asyncio.sleep(1.0)
        if messages is None:
            record.tell("the provider did not take the money")
            return
        record.agreed, record.paid_at = True, time.time()
        record.tell(f"the buyer pays at {purchase.provider}" + ("" if purchase.way == "pay" else f" ({purchase.way})"))
        if "refund" in purchase.faults and self._is_told_before(record):
            messages = [*messages, *self._provider_gives_back(record)]
        elif "refund" in purchase.faults:
            self._later(record, self._give_back(record))
        await self._news(record, messages)

    async def _news(self, record: Record, messages: list[Delivery]) -> None:
        """The provider's messages and the buyer's return are on their way, in whatever order."""
        purchase = record.purchase
        dropped = "drop" in purchase.faults
        if dropped and messages:
            record.tell(f"{len(messages)} messages are dropped")
        post = self._post(record, messages, reverse="reorder" in purchase.faults, only_forged=dropped)
        if "reorder" in purchase.faults:
            await self._come_back(record)
            self._later(record, post)
        else:
            self._later(record, post)
            await self._come_back(record)
        if purchase.verifies:
            answer = await self._ask(
                "POST", "/verify", json={"session_id": str(record.sessions[-1])},
                headers={"Authorization": f"Bearer {record.token}"},
            )  # fmt: skip
            record.tell(f"POST /verify: {_said(answer)}")

    async def _come_back(self, record: Record) -> None:
        """The buyer's browser comes back, and again while it is told to wait or finds nobody."""
        purchase, account = record.purchase, self._account(record)
        if not purchase.comes_back:
            record.tell("the buyer does not come back")
            return
        address = f"/return/{purchase.provider}"
        if not account.can_be_asked:  # the return is all the news there is: what befalls messages befalls it
            await self._misfortune(record, address)
        query = account.return_query(record.pages[-1])
        copies = purchase.copies if "duplicate" in purchase.faults and not account.can_be_asked else 1
        await asyncio.gather(*(self._return(record, f"{address}?{query}") for _ in range(copies)))

    async def _misfortune(self, record: Record, address: str) -> None:
        if "delay" in record.purchase.faults:
            await asyncio.sleep(record.purchase.delay)
        if "forge" in record.purchase.faults:
            query = self._account(record).forged_return_query(record.pages[-1])
            answer = await self._ask("GET", f"{address}?{query}", follow_redirects=False)
            record.forged += answer is not None
            record.believed += answer is not None and "status=completed" in answer.headers.get("location", "")
            record.tell(f"a forged return: {_said(answer)}")

    async def _return(self, record: Record, address: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = await self._ask("GET", address, follow_redirects=False)
            record.tell(f"the buyer comes back: {_said(answer)}")
            if answer is not None and answer.status_code < 500:
                return
            await asyncio.sleep(1.0)

    # the provider

    async def _post(
        self, record: Record, messages: list[Delivery], *, reverse: bool, only_forged: bool = False
    ) -> None:
        faults = record.purchase.faults
        if "forge" in faults and messages:
            await self._forge(record, messages[-1])
        if only_forged:
            return
        if "delay" in faults:
            await asyncio.sleep(record.purchase.delay)
        copies = record.purchase.copies if "duplicate" in faults else 1
        for message in reversed(messages) if reverse else messages:
            sendings = [self._send(record, message) for _ in range(copies)]
            if reverse:  # each has been taken in before the one that it overtook
                await asyncio.gather(*sendings)
            else:
                for sending in sendings:
                    self._later(record, sending)

    async def _forge(self, record: Record, message: Delivery) -> None:
        provider = record.purchase.provider
        answer = await self._tell(provider, self._account(record).forged(message))
        record.tell(f"a forged message: {_said(answer)}")
        if answer is not None and answer.status_code < 500:
            record.forged += 1
            record.believed += not is_refused(provider, answer)

    async def _send(self, record: Record, message: Delivery) -> None:
        """Deliver a message until it is taken in."""
        for seconds in (*_AGAIN_SECONDS, None):
            answer = await self._tell(record.purchase.provider, message)
            record.tell(f"a message of {record.purchase.provider}: {_said(answer)}")
            if is_taken_in(record.purchase.provider, answer):
                return
            if seconds is not None:
                await asyncio.sleep(seconds)
        record.tell("the provider gives up")

    def _teller(self, record: Record) -> AsyncTell:
        async def tell(message: Delivery) -> httpx.Response | None:
            answer = await self._tell(record.purchase.provider, message)
            record.tell(f"{record.purchase.provider} asks: {_said(answer)}")
            return answer

        return tell

    async def _tell(self, provider: str, message: Delivery) -> httpx.Response | None:
        headers, body = message
        return await self._ask("POST", f"/webhooks/{provider}", headers=headers, content=body)

    # refunds

    def _is_told_before(self, record: Record) -> bool:
        """Whether the news of a refund shall overtake that of the payment."""
        purchase = record.purchase
        taken = self._account(record).taken(record.pages[-1])  # not yet, at PayPal
        return "reorder" in purchase.faults and "drop" not in purchase.faults and bool(taken) and _can_refund(
            self._account(record)
        )  # fmt: skip

    def _provider_gives_back(self, record: Record) -> list[Delivery]:
        record.ordered_back = self._share(record)
        record.tell(f"{record.purchase.provider} gives {record.ordered_back} back")
        return self._account(record).merchant_refunds(record.pages[-1], record.ordered_back)

    async def _give_back(self, record: Record) -> None:
        """Once the purchase is known to be paid."""
        if not await self._is_paid(record.user_id):
            return
        if not _can_refund(self._account(record)) or record.purchase.back_by_bridge:
            await self._order_refund(record)
        elif self._account(record).taken(record.pages[-1]):
            await self._post(record, self._provider_gives_back(record), reverse=False)

    async def _order_refund(self, record: Record) -> None:
        record.ordered_back = self._share(record)
        headers = {"Authorization": f"Bearer {self._stage.admin_token}", "Idempotency-Key": f"back-{record.user_id}"}
        body = {"session_id": str(record.sessions[-1]), "amount": record.ordered_back}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = await self._ask("POST", "/admin/refunds", json=body, headers=headers)
            record.tell(f"POST /admin/refunds {record.ordered_back}: {_said(answer)}")
            if answer is not None and _is_final(answer):
                return
            await asyncio.sleep(2.0)

    def _share(self, record: Record) -> int:
        return record.price // 2 if record.purchase.half_back else record.price

    async def _is_paid(self, user_id: UUID) -> bool:
        """Wait until the database knows what became of the purchase."""
        async with self._news_came:
            await self._news_came.wait_for(lambda: user_id in self._finished or self._is_over)
        return user_id in self._completed

    # all of them

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Ask one of the bridges, in turn; None when nobody answers."""
        url = self._stage.urls[next(self._turn) % len(self._stage.urls)]
        self._counts.requests += 1
        try:
            answer = await self._client.request(method, url + path, **request)
        except httpx.HTTPError:
            self._counts.answers[0] += 1
            return None
        self._counts.answers[answer.status_code] += 1
        return answer

    def _account(self, record: Record) -> Simulator:
        return self._stage.accounts[record.purchase.provider]

    def _later(self, record: Record, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._unless_surprised(record, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unless_surprised(self, record: Record, work: Coroutine[Any, Any, None]) -> None:
        """A provider that is asked for what it would never be asked for ends this deed, and is told of at the end."""
        try:
            await work
        except (AssertionError, CannotDo, KeyError, ValueError) as surprise:
            what = f"{record.purchase.provider}: {type(surprise).__name__} {surprise}"
            self._counts.surprises.append(f"purchase {record.purchase.number}, {what}"[:300])
            record.tell(what)

    async def _leaves(self, record: Record) -> None:
        """Messages are on their way a little longer than the buyer looks on."""
        await asyncio.sleep(2.0 + record.purchase.delay * ("delay" in record.purchase.faults))
        self.under_way.pop(record.purchase.number, None)


def _is_final(answer: httpx.Response) -> bool:
    """Whether the same order given again would be answered the same."""
    if answer.is_success or "refund_in_doubt" in answer.text:
        return True
    return answer.is_client_error and "request_in_progress" not in answer.text


def _can_refund(account: Simulator) -> bool:
    return type(account).merchant_refunds is not Simulator.merchant_refunds


def _order_of(message: Delivery) -> str:
    resource: dict[str, Any] = json.loads(message[1])["resource"]
    return str(resource["supplementary_data"]["related_ids"]["order_id"])


def _said(answer: httpx.Response | None) -> str:
    if answer is None:
        return "nobody answers"
    if answer.is_redirect:
        return f"{answer.status_code} {answer.headers.get('location', '').partition('?')[2]}"
    return f"{answer.status_code} {answer.text[:120]}"
