"""POST /checkout, /checkout/{id}/pay and /verify, over HTTP, against a real database and a simulated Stripe."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stamina

from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer, Desk, StripeDesk, running_bridge, wait_until
from tests.support.database import Database
from tests.support.races import all_at_once


def pages_opened(stripe: StripeSimulator) -> int:
    return sum(received.path == "/v1/checkout/sessions" for received in stripe.received)


def reason(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["reason"]


def good(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


class TestCheckout:
    def test_a_session_and_its_page_come_in_one_call(self, bridge: Bridge, buyer: Buyer, desk: Desk) -> None:
        answer = good(buyer.checkout(provider=desk.name, metadata={"from": "the shop"}))
        session = bridge.db.session(answer["session_id"])
        assert (answer["status"], answer["amount"], answer["currency"]) == ("pending", 500, "USD")
        assert answer["checkout_url"] == session["checkout_url"]
        assert (session["user_id"], session["provider"], session["attempts"]) == (buyer.id, desk.name, 1)
        assert session["metadata"] == {"from": "the shop"}

    def test_the_same_call_again_gives_the_same_session_and_page(
        self, buyer: Buyer, desk: Desk, stripe: StripeSimulator
    ) -> None:
        first = good(buyer.checkout(provider=desk.name))
        assert good(buyer.checkout(provider=desk.name)) == first
        assert pages_opened(stripe) == (desk.name == "stripe")

    def test_a_double_click_opens_one_page(self, bridge: Bridge, buyer: Buyer, desk: Desk) -> None:
        with stamina.set_testing(False):  # who meets the first one under way (409) waits before asking again
            answers = all_at_once([lambda: good(buyer.checkout(provider=desk.name)) for _ in range(8)])
        assert all(answer == answers[0] for answer in answers), answers
        (page,) = bridge.db.sql("select count(*) as attempts from payments.attempts")
        assert page["attempts"] == 1

    def test_a_repeat_of_a_key_gets_the_answer_of_the_first_also_after_the_purchase_is_paid(
        self, bridge: Bridge, buyer: Buyer, stripe_desk: StripeDesk
    ) -> None:
        first = good(buyer.checkout(key="order-1"))
        event = stripe_desk.paid(bridge.attempt(first["session_id"]))
        assert bridge.deliver("stripe", stripe_desk.deliver(event)).status_code == 200
        assert good(buyer.checkout(key="order-1")) == first
        assert good(buyer.checkout(key="order-2"))["session_id"] != first["session_id"]

    def test_a_key_leads_to_its_session_after_the_answer_is_forgotten(
        self, bridge: Bridge, buyer: Buyer, stripe_desk: StripeDesk
    ) -> None:
        first = good(buyer.checkout(key="order-1"))
        event = stripe_desk.paid(bridge.attempt(first["session_id"]))
        assert bridge.deliver("stripe", stripe_desk.deliver(event)).status_code == 200
        bridge.db.sql("update payments.idempotency_keys set updated_at = now() - interval '2 days'")
        assert bridge.db.as_service().rpc("cleanup_idempotency_keys") == 1
        again = good(buyer.checkout(key="order-1"))
        assert (again["session_id"], again["status"], again["checkout_url"]) == (first["session_id"], "completed", None)

    def test_what_was_refused_can_be_tried_again_with_its_key(self, bridge: Bridge, buyer: Buyer) -> None:
        assert reason(buyer.checkout("gift", key="order-1")) == (404, "product_unknown")
        bridge.db.new_product("gift", USD=700)
        assert good(buyer.checkout("gift", key="order-1"))["amount"] == 700

    def test_of_one_key_sent_many_times_at_once_one_works_and_the_others_wait_or_get_its_answer(
        self, bridge: Bridge, buyer: Buyer
    ) -> None:
        answers = all_at_once([lambda: buyer.checkout(key="order-1") for _ in range(8)])
        done = [answer.json() for answer in answers if answer.status_code == 200]
        assert done
        assert all(answer == done[0] for answer in done)
        turned_away = {reason(answer) for answer in answers if answer.status_code != 200}
        assert turned_away <= {(409, "request_in_progress")}
        assert good(buyer.checkout(key="order-1")) == done[0]
        (row,) = bridge.db.sql("select count(*) as attempts from payments.attempts")
        assert row["attempts"] == 1

    def test_the_request_of_a_bridge_that_crashed_is_taken_over_after_its_lease(
        self, bridge: Bridge, buyer: Buyer
    ) -> None:
        first = good(buyer.checkout(key="order-1"))
        # as it was when the bridge died between its work and the note that it was done
        bridge.db.sql("update payments.idempotency_keys set status = 'pending', response = null")
        assert reason(buyer.checkout(key="order-1")) == (409, "request_in_progress")
        bridge.db.sql("update payments.idempotency_keys set leased_until = now()")
        assert good(buyer.checkout(key="order-1")) == first

    def test_what_a_coupon_makes_free_is_complete_at_once(self, bridge: Bridge, buyer: Buyer) -> None:
        bridge.db.sql("insert into payments.coupons (id, percent_off) values ('GIFT', 100)")
        answer = good(buyer.checkout(coupon="gift"))
        assert (answer["status"], answer["checkout_url"], answer["amount"]) == ("completed", None, 0)
        assert good(buyer.checkout(coupon="gift")) == answer
        assert bridge.db.balance(buyer.id) == 100
        verified = good(buyer.verify(session_id=answer["session_id"]))
        assert (verified["success"], verified["payment_status"]) == (True, "completed")

    def test_too_many_purchases_are_told_when_to_come_back(self, bridge: Bridge, buyer: Buyer) -> None:
        bridge.db.sql("update payments.settings set create_limit = 1, verify_limit = 1")
        session_id = good(buyer.checkout())["session_id"]
        good(buyer.verify(session_id=session_id))
        for refusal in (buyer.checkout("credits_500"), buyer.verify(session_id=session_id)):
            assert reason(refusal) == (429, "too_many_requests")
            assert 1 <= int(refusal.headers["Retry-After"]) <= 60
        assert good(buyer.checkout())["session_id"] == session_id

    def test_a_key_of_another_purchase_is_a_conflict(self, buyer: Buyer) -> None:
        good(buyer.checkout(key="order-1"))
        assert reason(buyer.checkout("credits_500", key="order-1")) == (409, "idempotency_conflict")

    def test_keys_of_different_buyers_do_not_meet(self, bridge: Bridge) -> None:
        one, two = (good(bridge.buyer().checkout(key="order-1")) for _ in range(2))
        assert one["session_id"] != two["session_id"]

    def test_the_email_of_the_token_is_the_default(self, bridge: Bridge, stripe: StripeSimulator) -> None:
        buyer = bridge.buyer(email="ada@example.test")
        session_id = good(buyer.checkout())["session_id"]
        assert bridge.db.session(session_id)["email"] == "ada@example.test"
        assert stripe.received[-1].values["customer_email"] == "ada@example.test"

    def test_the_price_is_only_compared(self, bridge: Bridge, buyer: Buyer) -> None:
        assert reason(buyer.checkout(price=0.01)) == (422, "price_mismatch")
        assert bridge.db.sql("select id from public.payment_checkout_sessions") == []
        assert good(buyer.checkout(price="5.00"))["amount"] == 500

    def test_what_makes_no_sense_is_refused_with_its_reason(self, bridge: Bridge, buyer: Buyer) -> None:
        requests: list[tuple[dict[str, Any], tuple[int, str]]] = [
            ({"plan": "moon"}, (404, "product_unknown")),
            ({"currency": "XXX"}, (422, "currency_unavailable")),
            ({"coupon": "FREE"}, (422, "coupon_unknown")),
            ({"provider": "paystack"}, (422, "provider_unknown")),
            ({"provider": "barter"}, (422, "provider_unknown")),
            ({"email": "nobody"}, (422, "invalid_input")),
            ({"amount": 1}, (422, "invalid_request")),
            ({"user_id": str(uuid.uuid4())}, (422, "invalid_request")),
            ({"currency": "dollars"}, (422, "invalid_request")),
            ({"price": "NaN"}, (422, "invalid_request")),
            ({"price": -5}, (422, "invalid_request")),
            ({"plan": ""}, (422, "invalid_request")),
            ({"plan": 7}, (422, "invalid_request")),
            ({"metadata": []}, (422, "invalid_request")),
            ({"metadata": {"note": "x" * 9000}}, (422, "invalid_input")),
            ({"metadata": {"note": "\0"}}, (422, "invalid_request")),
            ({"plan": "credits\0"}, (422, "invalid_request")),
            ({"subject": "\0"}, (422, "invalid_request")),
        ]
        for fields, answer in requests:
            assert reason(buyer.checkout(**{"plan": "credits_100", **fields})) == answer, fields
        assert bridge.db.sql("select id from public.payment_checkout_sessions") == []

    def test_bodies_of_any_shape_get_an_answer(self, buyer: Buyer) -> None:
        bodies = [
            (b"", 422),
            (b"{", 422),
            (b"[]", 422),
            (b"null", 422),
            (b'{"plan": "\xff"}', 400),
            (b'{"plan": "\\ud800"}', 422),
            (b'{"plan": "credits_100", "\\ud800": 1}', 422),
            (b'{"plan": "credits_100", "metadata": {"a": "\\ud800"}}', 422),
            (b'{"plan": "credits_100", "metadata": {"a": NaN}}', 422),
            (b'{"plan": "credits_100", "metadata": {"a": ' + b"9" * 4000 + b"}}", 200),
            (b'{"plan": "credits_100", "metadata": {"a": ' + b"9" * 5000 + b"}}", 400),
            (b'{"plan": "credits_100", "metadata": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}", 200),
            (b'{"plan": "credits_100", "metadata": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", 400),
        ]
        for body, status in bodies:
            response = buyer.post("/checkout", content=body, headers={"content-type": "application/json"})
            assert response.status_code == status, (body[:80], response.text)

    def test_a_huge_body_is_not_read(self, bridge: Bridge, buyer: Buyer) -> None:
        huge = json.dumps({"plan": "credits_100", "metadata": {"a": "x" * 1_000_000}}).encode()
        json_type = {"content-type": "application/json"}
        announced = buyer.post("/checkout", content=huge, headers=json_type)
        assert announced.status_code == 413
        chunks = (huge[start : start + 65_536] for start in range(0, len(huge), 65_536))
        assert reason(buyer.post("/checkout", content=chunks, headers=json_type)) == (413, "body_too_large")
        assert bridge.http.get("/healthz").status_code == 200

    def test_text_is_never_sql(self, bridge: Bridge, buyer: Buyer) -> None:
        evil = "'; drop table public.payment_checkout_sessions; --"
        for field in ("plan", "provider", "coupon"):
            assert buyer.checkout(**{"plan": "credits_100", field: evil}).status_code in (404, 422)
        session_id = good(buyer.checkout(subject=evil, key=evil, metadata={evil: evil}))["session_id"]
        session = bridge.db.session(session_id)
        assert (session["subject"], session["idempotency_key"], session["metadata"]) == (evil, evil, {evil: evil})

    def test_nobody_buys_without_a_token(self, bridge: Bridge) -> None:
        response = bridge.http.post("/checkout", json={"plan": "credits_100"})
        assert reason(response) == (401, "not_signed_in")
        assert response.headers["www-authenticate"] == "Bearer"

    def test_a_deleted_user_buys_nothing(self, bridge: Bridge) -> None:
        assert reason(bridge.buyer(uuid.uuid4()).checkout()) == (422, "user_unknown")


class TestAProviderInTrouble:
    def references(self, stripe: StripeSimulator) -> list[str]:
        return [received.values["client_reference_id"] for received in stripe.received]

    def test_the_next_call_continues_the_attempt_that_may_have_a_page(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        stripe.faults.extend([Fault(status=500)] * 2 + [Fault(lost=True)])  # the last try did open the page
        assert reason(buyer.checkout()) == (502, "provider_unavailable")
        before = len(stripe.objects)
        answer = good(buyer.checkout())
        assert len(stripe.objects) == before
        assert len(set(self.references(stripe))) == 1
        assert bridge.db.session(answer["session_id"])["attempts"] == 1

    def test_a_refusal_gives_the_next_call_a_fresh_attempt(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        stripe.faults.append(Fault(status=400))
        assert reason(buyer.checkout()) == (502, "provider_refused")
        answer = good(buyer.checkout())
        attempts = bridge.db.sql("select status, error_code, reference from payments.attempts order by number")
        said = [(attempt["status"], attempt["error_code"]) for attempt in attempts]
        assert said == [("failed", "provider_refused"), ("open", None)]
        assert self.references(stripe) == [attempt["reference"] for attempt in attempts]
        assert bridge.db.session(answer["session_id"])["attempts"] == 2

    def test_a_failure_that_the_provider_has_stored_is_left_behind(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        stripe.faults.append(Fault(status=500, stored=True))
        assert reason(buyer.checkout())[0] == 502
        session_id = good(buyer.checkout())["session_id"]
        assert bridge.db.session(session_id)["attempts"] == 2

    def test_a_page_whose_answer_was_lost_is_not_opened_twice(self, buyer: Buyer, stripe: StripeSimulator) -> None:
        stripe.faults.append(Fault(lost=True))
        opened_before = len(stripe.objects)
        good(buyer.checkout())
        assert len(stripe.objects) == opened_before + 1

    def test_no_transaction_is_open_while_the_provider_takes_its_time(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        stripe.faults.append(Fault(latency=0.5))

        def look() -> list[str]:
            wait_until(lambda: stripe.received)
            rows = bridge.db.sql(
                "select state from pg_stat_activity where application_name = 'pgcheckout' and datname = %s",
                bridge.db.name,
            )
            return [row["state"] for row in rows]

        states, answer = all_at_once([look, lambda: [good(buyer.checkout())["status"]]])
        assert isinstance(states, list)
        assert states
        assert set(states) == {"idle"}
        assert answer == ["pending"]

    def test_a_call_after_a_crash_continues_under_the_same_reference(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        session_id = bridge.db.new_session(buyer.id)
        stored = bridge.db.as_service().rpc("open_checkout_attempt", p_session_id=session_id)
        answer = good(buyer.checkout())
        assert answer["session_id"] == str(session_id)
        assert stripe.received[-1].values["client_reference_id"] == stored["reference"]
        assert bridge.db.session(session_id)["attempts"] == 1


class TestPay:
    def test_the_owner_pays_a_session_that_the_app_made(self, bridge: Bridge, buyer: Buyer) -> None:
        session_id = bridge.db.as_user(buyer.id).rpc("get_or_create_checkout_session", p_plan="pro_month")
        answer = good(buyer.pay(session_id))
        assert (answer["session_id"], answer["amount"]) == (str(session_id), 1200)
        assert good(buyer.post(f"/checkout/{session_id}/pay")) == answer

    def test_a_stranger_does_not(self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator) -> None:
        session_id = bridge.db.new_session()
        assert reason(buyer.pay(session_id)) == (403, "not_your_session")
        assert stripe.received == []

    def test_an_unknown_session_is_not_found(self, buyer: Buyer) -> None:
        assert reason(buyer.pay(uuid.uuid4())) == (404, "session_not_found")
        assert reason(buyer.pay("7")) == (422, "invalid_request")

    def test_a_paid_session_is_not_paid_again(self, bridge: Bridge, buyer: Buyer) -> None:
        session_id = bridge.db.new_session(buyer.id)
        bridge.db.apply(bridge.db.open_attempt(session_id))
        assert reason(buyer.pay(session_id)) == (409, "session_not_pending")

    def test_a_lapsed_session_is_gone(self, bridge: Bridge, buyer: Buyer) -> None:
        session_id = bridge.db.new_session(buyer.id)
        bridge.db.lapse(session_id)
        assert reason(buyer.pay(session_id)) == (410, "session_expired")

    def test_another_provider_takes_over_and_the_old_page_is_closed(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        session_id = good(buyer.checkout(provider="stripe"))["session_id"]
        old_page = bridge.attempt(session_id)["provider_session_id"]
        answer = good(buyer.pay(session_id, provider="sandbox"))
        assert "/sandbox/pay/" in answer["checkout_url"]
        assert stripe.objects[old_page]["status"] == "expired"
        assert bridge.db.session(session_id)["provider"] == "sandbox"

    def test_the_old_page_may_stay_open_when_its_provider_is_away(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        session_id = good(buyer.checkout(provider="stripe"))["session_id"]
        stripe.faults.extend([Fault(status=503)] * 3)
        assert "/sandbox/pay/" in good(buyer.pay(session_id, provider="sandbox"))["checkout_url"]

    def test_a_provider_that_is_off_is_refused(self, bridge: Bridge, buyer: Buyer) -> None:
        session_id = bridge.db.new_session(buyer.id, p_provider="paystack")
        assert reason(buyer.pay(session_id)) == (422, "provider_unknown")
        assert bridge.db.session(session_id)["attempts"] == 0


class TestVerify:
    @pytest.fixture
    def session_id(self, buyer: Buyer) -> str:
        return str(good(buyer.checkout())["session_id"])

    def test_any_one_name_of_a_payment_will_do(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, session_id: str
    ) -> None:
        attempt = bridge.attempt(session_id)
        stripe.pay(attempt["provider_session_id"])
        answers = [
            good(buyer.verify(session_id=session_id)),
            good(buyer.verify(reference=attempt["reference"])),
            good(buyer.verify(provider_session_id=attempt["provider_session_id"])),
            good(buyer.verify(provider_session_id=attempt["provider_session_id"], provider="stripe")),
        ]
        assert answers[0]["success"]
        assert answers[0]["verified"]
        assert (answers[0]["payment_status"], answers[0]["amount"], answers[0]["currency"]) == ("completed", 500, "USD")
        assert answers[0]["fulfilment"]
        assert all(answer == answers[0] for answer in answers)
        assert bridge.db.balance(buyer.id) == 100

    def test_a_paid_session_is_answered_without_asking_again(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, session_id: str
    ) -> None:
        stripe.pay(bridge.attempt(session_id)["provider_session_id"])
        good(buyer.verify(session_id=session_id))
        stripe.received.clear()
        assert good(buyer.verify(session_id=session_id))["success"]
        assert stripe.received == []

    def test_a_stranger_learns_nothing(self, bridge: Bridge, stripe: StripeSimulator, session_id: str) -> None:
        stranger, attempt = bridge.buyer(), bridge.attempt(session_id)
        stripe.received.clear()
        for name in (
            {"session_id": session_id},
            {"reference": attempt["reference"]},
            {"provider_session_id": attempt["provider_session_id"]},
        ):
            assert reason(stranger.verify(**name)) == (403, "not_your_session")
        assert stripe.received == []

    def test_one_name_and_no_more(self, buyer: Buyer, session_id: str) -> None:
        assert reason(buyer.verify(session_id=session_id, reference="x")) == (422, "invalid_request")
        assert reason(buyer.verify()) == (422, "invalid_request")
        assert reason(buyer.verify(session_id="x")) == (422, "invalid_request")

    def test_what_nobody_knows_is_not_found(self, buyer: Buyer) -> None:
        for name in ({"session_id": uuid.uuid4()}, {"reference": "x"}, {"provider_session_id": "cs_x"}):
            assert reason(buyer.verify(**name)) == (404, "session_not_found")

    def test_before_a_page_is_open_there_is_nobody_to_ask(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        answer = good(buyer.verify(session_id=bridge.db.new_session(buyer.id)))
        assert (answer["success"], answer["payment_status"], answer["verified"]) == (False, "pending", False)
        assert stripe.received == []

    def test_an_unpaid_page_is_pending_and_verified(self, buyer: Buyer, session_id: str) -> None:
        answer = good(buyer.verify(session_id=session_id))
        assert (answer["success"], answer["payment_status"], answer["verified"]) == (False, "pending", True)

    def test_a_delayed_payment_is_on_its_way(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, session_id: str
    ) -> None:
        page = bridge.attempt(session_id)["provider_session_id"]
        stripe.pay_later(page)
        assert good(buyer.verify(session_id=session_id))["payment_status"] == "processing"
        stripe.settle(page)
        assert good(buyer.verify(session_id=session_id))["success"]

    def test_a_paid_session_that_cannot_be_fulfilled_is_no_success(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, session_id: str
    ) -> None:
        bridge.db.break_fulfilment("credits")
        stripe.pay(bridge.attempt(session_id)["provider_session_id"])
        answer = good(buyer.verify(session_id=session_id))
        assert (answer["success"], answer["payment_status"]) == (False, "completed")
        assert "looking at" in answer["message"]

    def test_a_provider_that_is_away_can_be_asked_later(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, session_id: str
    ) -> None:
        stripe.pay(bridge.attempt(session_id)["provider_session_id"])
        stripe.faults.extend([Fault(status=503)] * 3)
        assert reason(buyer.verify(session_id=session_id)) == (502, "provider_unavailable")
        assert good(buyer.verify(session_id=session_id))["success"]

    def test_verify_and_webhook_at_once_fulfil_once(
        self, bridge: Bridge, buyer: Buyer, stripe_desk: StripeDesk, session_id: str
    ) -> None:
        delivery = stripe_desk.deliver(stripe_desk.paid(bridge.attempt(session_id)))
        answers = all_at_once(
            [
                lambda: buyer.verify(session_id=session_id).status_code,
                lambda: bridge.deliver("stripe", delivery).status_code,
            ]
            * 4
        )
        assert answers == [200] * 8
        assert bridge.db.entries(buyer.id) == [100]
        assert len(bridge.db.captures(uuid.UUID(session_id))) == 1
        assert bridge.db.trail(uuid.UUID(session_id)) == [("pending", "completed", None)]


class TestAppsInBrowsers:
    @pytest.fixture
    def open_bridge(self, db: Database) -> Iterator[Bridge]:
        with running_bridge(db, cors_origins="https://app.test") as running:
            yield running

    def test_only_listed_origins_may_call(self, open_bridge: Bridge) -> None:
        def preflight(origin: str) -> httpx.Response:
            asked = {"origin": origin, "access-control-request-method": "POST"}
            return open_bridge.http.options("/checkout", headers=asked)

        assert preflight("https://app.test").headers["access-control-allow-origin"] == "https://app.test"
        assert "access-control-allow-origin" not in preflight("https://evil.test").headers
