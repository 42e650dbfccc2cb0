"""Letters: each entry of the outbox is handed to a real mail server, once or again under the same name."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest

from bridge.errors import MailRefused, SetupError
from bridge.jobs import send_letters
from bridge.mail import Operator, Post, ResumeLinks, Writer
from bridge.rpc import Letter, connect_rpc
from bridge.settings import Settings, load_settings
from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, query_of, running_bridge
from tests.support.database import Database, Row
from tests.support.mail_server import MailServer

FROM = "The Shop <pay@shop.test>"
SECRET = "the-secret-of-links-with-32-characters"


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def settings_for(server: MailServer, db: Database | None = None, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "smtp_url": f"smtp://127.0.0.1:{server.port}", "mail_from": FROM, "operator_email": "ops@shop.test",
        "public_url": "https://pay.shop.test", "link_secret": SECRET,
        **({"database_url": db.url()} if db else {}), **changes,
    }  # fmt: skip
    return load_settings(_env_file=None, **values)


def sent(settings: Settings) -> Counter[str]:
    async def once() -> Counter[str]:
        rpc = await connect_rpc(settings)
        try:
            return await send_letters(rpc, Writer(settings), Post(settings), Operator(settings))
        finally:
            await rpc.close()

    return asyncio.run(once())


def letter(kind: str = "receipt", *, address: str | None = "ada@buyer.test", **said: Any) -> Letter:
    payload = {
        "product_id": "credits_100", "product_name": "100 <credits> & more", "amount": 2500, "currency": "USD",
        "occurrence": "", "invoice": "INV-2026-7", **said,
    }  # fmt: skip
    return Letter(7, uuid.uuid4(), kind, address, payload)


def written(settings: Settings, entry: Letter) -> EmailMessage:
    message = Writer(settings).write(entry)
    assert message
    return message


def parts(message: EmailMessage) -> tuple[str, str]:
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text
    assert html
    return text.get_content(), html.get_content()


def outbox(db: Database) -> list[Row]:
    return db.sql("select kind, status, tries, error from payments.notifications order by id")


def due(db: Database) -> None:
    db.sql("update payments.notifications set due_at = now() where status = 'queued'")


@pytest.fixture
def bought(db: Database) -> uuid.UUID:
    """A purchase whose receipt is in the outbox."""
    session_id = db.new_session(p_email="ada@buyer.test")
    db.apply(db.open_attempt(session_id))
    assert [row["kind"] for row in outbox(db)] == ["receipt"]
    return session_id


class TestSending:
    def test_a_receipt_is_sent_once(self, db: Database, server: MailServer, bought: uuid.UUID) -> None:
        settings = settings_for(server, db)
        assert sent(settings) == {"sent": 1}
        assert sent(settings) == {}
        (message,) = server.letters
        assert (message["From"], message["To"], message["Auto-Submitted"]) == (FROM, "ada@buyer.test", "auto-generated")
        assert message["Subject"] == "Your receipt: 100 credits"
        for body in parts(message):
            assert "5.00 USD" in body
            assert str(bought) in body
            assert f"INV-{datetime.now(UTC).year}-1" in body
        assert outbox(db) == [{"kind": "receipt", "status": "sent", "tries": 1, "error": None}]

    @pytest.mark.parametrize(
        ("trouble", "said"),
        [("550 no such user", "answered 550"), ("451 later", "answered 451"), ("drop", "cannot be reached")],
    )
    @pytest.mark.usefixtures("bought")
    def test_what_was_not_taken_is_sent_again(self, db: Database, server: MailServer, trouble: str, said: str) -> None:
        settings = settings_for(server, db)
        server.troubles.append(trouble)
        assert sent(settings) == {"failed": 1}
        (row,) = outbox(db)
        assert (row["status"], row["tries"]) == ("queued", 1)
        assert said in row["error"]
        assert sent(settings) == {}  # not at once
        due(db)
        assert sent(settings) == {"sent": 1}
        assert len(server.letters) == 1

    def test_a_letter_that_cannot_be_written_does_not_keep_the_others(
        self, db: Database, server: MailServer, tmp_path: Path, bought: uuid.UUID
    ) -> None:
        (tmp_path / "refund.txt").write_text("{{ 1 / 0 }}", "utf-8")  # no error of Jinja's
        db.as_service().rpc("refund_checkout_session", p_session_id=bought, p_provider_refund_id="re", p_amount=125)
        db.sql("update payments.notifications set due_at = now() - interval '1 h' where kind = 'refund'")
        assert sent(settings_for(server, db, mail_templates=tmp_path)) == {"failed": 1, "sent": 1}
        assert {row["kind"]: row["error"] for row in outbox(db)} == {"receipt": None, "refund": "ZeroDivisionError"}

    @pytest.mark.usefixtures("bought")
    def test_a_server_that_is_away_costs_no_letter(self, db: Database, server: MailServer) -> None:
        nobody = settings_for(server, db, smtp_url="smtp://127.0.0.1:1")
        assert sent(nobody) == {"failed": 1}
        due(db)
        assert sent(settings_for(server, db)) == {"sent": 1}

    @pytest.mark.usefixtures("bought")
    def test_after_many_tries_it_is_dead_and_counted(self, db: Database, server: MailServer) -> None:
        db.sql("update payments.settings set notification_tries = 2")
        server.troubles.extend(["550 no"] * 2)
        for _ in range(2):
            due(db)
            assert sent(settings_for(server, db)) == {"failed": 1}
        assert [row["status"] for row in outbox(db)] == ["dead"]
        assert db.as_service().rpc("payment_health")["notifications"]["dead"] == 1

    @pytest.mark.usefixtures("bought")
    def test_a_letter_that_was_sent_and_not_noted_comes_again_under_the_same_name(
        self, db: Database, server: MailServer
    ) -> None:
        settings = settings_for(server, db)
        sent(settings)
        db.sql("update payments.notifications set status = 'queued', finished_at = null, due_at = now()")
        sent(settings)
        first, again = server.letters
        assert first["Message-ID"] == again["Message-ID"]
        assert first["Message-ID"].endswith("@shop.test>")

    def test_two_workers_send_each_letter_once(self, db: Database, server: MailServer) -> None:
        for number in range(6):
            db.apply(db.open_attempt(db.new_session(p_email=f"buyer{number}@buyer.test")))
        server.troubles.extend([0.05] * 6)
        settings = settings_for(server, db)

        async def both() -> Counter[str]:
            rpc = await connect_rpc(settings)
            try:
                parts = rpc, Writer(settings), Post(settings), Operator(settings)
                return sum(await asyncio.gather(*(send_letters(*parts, 3) for _ in range(2))), Counter())
            finally:
                await rpc.close()

        assert asyncio.run(both()) == {"sent": 6}
        assert sorted(to for (to,) in server.recipients) == [f"buyer{number}@buyer.test" for number in range(6)]

    def test_refunds_and_alerts_are_told(self, db: Database, server: MailServer, bought: uuid.UUID) -> None:
        db.as_service().rpc("refund_checkout_session", p_session_id=bought, p_provider_refund_id="re_1", p_amount=125)
        db.as_service().rpc("refund_checkout_session", p_session_id=bought, p_provider_refund_id="re_2", p_amount=900)
        assert sent(settings_for(server, db)) == {"sent": 3}
        told = {message["Subject"]: message for message in server.letters}
        assert "1.25 USD" in parts(told["Your refund: 100 credits"])[0]
        alert = told["A payment needs you: refund_exceeds_payment"]
        assert alert["To"] == "ops@shop.test"
        assert str(bought) in parts(alert)[0]

    def test_an_alert_for_nobody_is_in_the_log(
        self, db: Database, server: MailServer, bought: uuid.UUID, caplog: pytest.LogCaptureFixture
    ) -> None:
        db.as_service().rpc("refund_checkout_session", p_session_id=bought, p_provider_refund_id="re_2", p_amount=900)
        assert sent(settings_for(server, db, operator_email="")) == {"sent": 1, "nobody": 1}
        assert f"session {bought} needs a person: refund_exceeds_payment" in caplog.text

    @pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
    @pytest.mark.parametrize("password", [MailServer.password, "wrong"])
    def test_it_logs_in_and_never_says_with_what(self, password: str) -> None:
        with MailServer(login=True) as server:
            url = f"smtp://{server.user}:{quote(password, safe='')}@127.0.0.1:{server.port}"
            settings = settings_for(server, smtp_url=url)
            message = written(settings, letter())
            if password == MailServer.password:
                asyncio.run(Post(settings).send(message))
                assert len(server.letters) == 1
                return
            with pytest.raises(MailRefused) as refused:
                asyncio.run(Post(settings).send(message))
            assert "535" in refused.value.message
            assert password not in refused.value.message
            assert "ada@buyer.test" not in refused.value.message


class TestWriting:
    @pytest.fixture
    def settings(self, server: MailServer) -> Settings:
        return settings_for(server)

    def test_what_others_have_named_is_escaped_in_html(self, settings: Settings) -> None:
        text, html = parts(written(settings, letter()))
        assert "100 <credits> & more" in text
        assert "100 &lt;credits&gt; &amp; more" in html
        assert "<credits>" not in html

    @pytest.mark.parametrize(
        "address", ["a@x.test, b@x.test", "a@x.test\r\nBcc: b@x.test", "nobody", "", "a b@x.test", "<a@x.test>"]
    )
    def test_a_buyer_can_name_one_address_and_nothing_else(self, settings: Settings, address: str) -> None:
        with pytest.raises(MailRefused) as refused:
            written(settings, letter(address=address))
        assert "x.test" not in refused.value.message

    def test_a_subject_is_one_line(self, settings: Settings) -> None:
        message = written(settings, letter(product_name="100\r\nBcc: eve@x.test"))
        assert message["Subject"] == "Your receipt: 100"
        assert message["Bcc"] is None

    def test_a_product_that_is_gone_goes_by_its_id(self, settings: Settings) -> None:
        assert written(settings, letter(product_name=None))["Subject"] == "Your receipt: credits_100"

    def test_templates_of_your_own_take_precedence_one_by_one(self, server: MailServer, tmp_path: Path) -> None:
        (tmp_path / "receipt.txt").write_text("Danke\n\n{{ product }} für {{ price }}\n", "utf-8")
        message = written(settings_for(server, mail_templates=tmp_path), letter())
        assert message["Subject"] == "Danke"
        text, html = parts(message)
        assert "für 25.00 USD" in text
        assert "Thank you" in html

    @pytest.mark.parametrize("template", ["{{ surprise }}", "{% if %}"])
    def test_a_template_with_a_mistake_is_named(self, server: MailServer, tmp_path: Path, template: str) -> None:
        (tmp_path / "receipt.txt").write_text(template, "utf-8")
        with pytest.raises(SetupError, match="template of receipt"):
            written(settings_for(server, mail_templates=tmp_path), letter())


class TestReminders:
    @pytest.fixture
    def office(self, db: Database, stripe: StripeSimulator, server: MailServer) -> Iterator[Bridge]:
        letters: dict[str, Any] = {
            "smtp_url": f"smtp://127.0.0.1:{server.port}",
            "mail_from": FROM,
            "link_secret": SECRET,
        }
        with running_bridge(db, stripe, **letters) as bridge:
            yield bridge

    @pytest.fixture
    def link(self, office: Bridge, server: MailServer) -> tuple[str, Row]:
        """The link of a reminder, and the purchase that it is about."""
        buyer = office.buyer(email="ada@buyer.test")
        opened = buyer.checkout(metadata={"reminders": True}).json()
        office.db.sql("update payments.settings set reminder_after = '1 microsecond'")
        assert office.db.as_service().rpc("enqueue_payment_reminders") == 1
        assert sent(office.settings) == {"sent": 1}
        (message,) = server.letters
        links = [word for word in parts(message)[0].split() if "/resume/" in word]
        assert links[0] in parts(message)[1]
        return links[0], opened

    def test_its_link_leads_to_the_page_that_is_alive(self, office: Bridge, link: tuple[str, Row]) -> None:
        there = office.http.get(link[0])
        assert (there.status_code, there.headers["location"]) == (303, link[1]["checkout_url"])

    def test_or_to_a_new_one(self, office: Bridge, stripe: StripeSimulator, link: tuple[str, Row]) -> None:
        old = office.attempt(link[1]["session_id"])["provider_session_id"]
        office.db.sql("update payments.attempts set expires_at = now() - interval '1 s'")
        there = office.http.get(link[0])
        new = office.attempt(link[1]["session_id"])["provider_session_id"]
        assert new != old
        assert there.headers["location"] == stripe.objects[new]["url"]

    def test_a_paid_session_is_thanked_for(
        self, office: Bridge, stripe: StripeSimulator, link: tuple[str, Row]
    ) -> None:
        stripe.pay(office.attempt(link[1]["session_id"])["provider_session_id"])
        office.deliver("stripe", stripe.sign(stripe.events[-1]))
        there = office.http.get(link[0])
        assert query_of(there) == {"from": "shop", "session_id": link[1]["session_id"], "status": "completed"}

    def test_it_shows_nothing_personal(self, link: tuple[str, Row]) -> None:
        claims = jwt.decode(link[0].rpartition("/")[2], SECRET, algorithms=["HS256"], audience="pgcheckout-resume")
        assert claims.keys() == {"sub", "aud", "exp"}
        assert claims["sub"] == link[1]["session_id"]

    def test_nobody_makes_one_up(self, office: Bridge, link: tuple[str, Row]) -> None:
        token, session_id = link[0].rpartition("/")[2], link[1]["session_id"]
        later = datetime.now(UTC) + timedelta(hours=1)
        claims = {"sub": session_id, "aud": "pgcheckout-resume", "exp": later}
        forged = [
            token[:-2], jwt.encode(claims, "x" * 32, algorithm="HS256"), jwt.encode(claims, "", algorithm="none"),
            jwt.encode(claims | {"exp": datetime.now(UTC) - timedelta(hours=1)}, SECRET, algorithm="HS256"),
            jwt.encode(claims | {"aud": "authenticated"}, SECRET, algorithm="HS256"),
            jwt.encode({"sub": session_id, "aud": "pgcheckout-resume"}, SECRET, algorithm="HS256"),
            jwt.encode(claims | {"sub": "me"}, SECRET, algorithm="HS256"),
            jwt.encode(claims | {"sub": str(uuid.uuid4())}, SECRET, algorithm="HS256"),
        ]  # fmt: skip
        for made_up in forged:
            there = office.http.get(f"/resume/{made_up}")
            assert there.headers["location"] == "https://app.test/cart?status=unknown"

    def test_without_a_secret_there_are_no_links(self, bridge: Bridge) -> None:
        links = ResumeLinks(bridge.settings)
        assert links.make(uuid.uuid4(), datetime.now(UTC)) is None
        answer: httpx.Response = bridge.http.get("/resume/" + jwt.encode({"sub": "x"}, "x" * 32, algorithm="HS256"))
        assert answer.headers["location"] == "https://app.test/cart?status=unknown"
