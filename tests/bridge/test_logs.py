"""Each line of log says what it is about, and shows no secret, token or person, whatever goes wrong."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.logs import about_request, about_session, configure, formatter, working_on
from bridge.mail import ResumeLinks
from bridge.redaction import Redactor, secrets_of
from bridge.settings import load_settings
from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import KEYS, SANDBOX_SECRET, Bridge, Buyer, running_bridge, wait_until
from tests.support.command import arguments, environment, own_logging
from tests.support.database import REPOSITORY, Database
from tests.support.log_scanner import SCANNER, Scanner
from tests.support.processes import free_port

EMAIL = "ada.lovelace@example.test"
PASSWORD = "the-password-of-the-database"
TOKEN = KEYS.token("HS256", "authenticated", str(uuid.uuid4()))
CARD = "4242424242424242"

Line = dict[str, Any]


class Lines(logging.Handler):
    """What an installation would have logged, line by line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.written: list[str] = []
        self.setFormatter(formatter(Redactor()))

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    def all(self, **fields: object) -> list[Line]:
        """Those that say so."""
        found = [json.loads(line) for line in self.written]
        return [line for line in found if fields.items() <= line.items()]

    def one(self, **fields: object) -> Line:
        """The first one; a request is answered a moment before its line is written."""
        wait_until(lambda: self.all(**fields))
        return self.all(**fields)[0]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("impatient")
def test_a_run_full_of_trouble_leaks_nothing(
    db: Database,
    stripe: StripeSimulator,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    lines: Lines,
) -> None:
    caplog.set_level(logging.DEBUG)
    url = db.url().replace("postgres@", f"postgres:{PASSWORD}@")
    with running_bridge(db, stripe, database_url=url) as bridge:
        told, buyer = trouble(bridge, stripe)
        with running_bridge(
            bridge.db, stripe, database_url=f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/postgres"
        ) as lost:
            assert lost.http.get("/readyz").status_code == 503

    captured = capfd.readouterr()
    # not even before the redaction
    logged = "\n".join([caplog.text, captured.out, captured.err, *lines.written])
    assert "error connecting" in logged
    assert "wrong_mode" in logged
    (intent,) = (event for event in told if event["type"] == "payment_intent.succeeded")
    for what, secret in {
        "the Stripe key": stripe.secret_key,
        "Stripe's signing secret": stripe.webhook_secret,
        "the sandbox key": SANDBOX_SECRET,
        "the token secret": KEYS.shared_secret,
        "the user's token": buyer.token,
        "the signature of the user's token": buyer.token.rpartition(".")[2],
        "the user's address": EMAIL,
        "the password of the database": PASSWORD,
        "a client secret": intent["data"]["object"]["client_secret"],
    }.items():
        assert secret not in logged, what


def trouble(bridge: Bridge, stripe: StripeSimulator) -> tuple[list[Line], Buyer]:
    buyer = bridge.buyer(email=EMAIL)
    session_id = buyer.checkout(metadata={"note": EMAIL}).json()["session_id"]
    page = bridge.attempt(session_id)["provider_session_id"]
    stripe.faults.extend([Fault(status=500), Fault(lost=True), Fault(status=401)])
    buyer.checkout("credits_500")
    stripe.faults.clear()
    told = stripe.pay(page)
    headers, body = stripe.sign(told[-1])
    bridge.deliver("stripe", (headers, body + b" "))
    bridge.deliver("stripe", stripe.sign(told[-1] | {"livemode": True, "id": "evt_live"}))
    for event in told:
        bridge.deliver("stripe", stripe.sign(event))
    bridge.http.get(f"/return/stripe?page={page}")
    buyer.verify(session_id=session_id)

    opened = buyer.checkout("pro_month", provider="sandbox").json()
    bridge.http.post(opened["checkout_url"], data={"action": "pay"})
    wait_until(lambda: bridge.db.session(opened["session_id"])["status"] == "completed")

    bridge.db.sql("drop function public.find_checkout_attempt")
    assert buyer.verify(session_id=session_id).status_code == 500
    bridge.http.post("/verify", headers={"Authorization": f"Bearer {buyer.token}x"}, json={"reference": "x"})
    return told, buyer


class TestOneLinePerRequest:
    def test_it_names_request_route_answer_and_session(self, bridge: Bridge, buyer: Buyer, lines: Lines) -> None:
        answer = buyer.checkout()
        line = lines.one(route="/checkout")
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["session_id"] == answer.json()["session_id"]
        assert (line["event"], line["method"], line["status"], line["level"]) == ("request", "POST", 200, "info")
        assert line["duration_ms"] > 0
        assert line["timestamp"].endswith("+00:00")

    def test_every_way_to_a_session_names_it(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, lines: Lines
    ) -> None:
        session_id = buyer.checkout().json()["session_id"]
        buyer.pay(session_id)
        attempt = bridge.attempt(session_id)
        buyer.verify(reference=attempt["reference"])
        bridge.http.get(f"/return/stripe?page={attempt['provider_session_id']}")
        for event in stripe.pay(attempt["provider_session_id"]):
            bridge.deliver("stripe", stripe.sign(event))
        buyer.post(f"/checkout/{session_id}/cancel")
        ways = ("/checkout/{session_id}/pay", "/checkout/{session_id}/cancel", "/verify")
        for route in (*ways, "/return/{provider}", "/webhooks/{provider}"):
            assert lines.one(route=route, session_id=session_id)["status"] in (200, 303)

    def test_what_goes_wrong_meanwhile_has_the_same_ids(
        self, bridge: Bridge, stripe: StripeSimulator, buyer: Buyer, lines: Lines
    ) -> None:
        session_id = buyer.checkout().json()["session_id"]
        stripe.faults.append(Fault(status=401))
        headers = {"X-Request-Id": "try-1"}
        failed = buyer.post("/verify", json={"session_id": session_id}, headers=headers)
        assert (failed.status_code, failed.headers["x-request-id"]) == (502, "try-1")
        about = {"request_id": "try-1", "session_id": session_id}
        assert lines.one(level="error", **about)["event"].startswith("provider_refused: ")
        assert lines.one(event="request", **about)["status"] == 502

    def test_one_request_says_nothing_of_the_one_before(self, bridge: Bridge, buyer: Buyer, lines: Lines) -> None:
        buyer.checkout()
        bridge.http.get("/nowhere", headers={"X-Request-Id": "after"})  # on the same connection
        assert "session_id" not in lines.one(request_id="after")

    def test_addresses_are_logged_by_route(self, db: Database, lines: Lines) -> None:
        with running_bridge(db, link_secret="a-link-secret-of-thirty-two-bytes-and-more") as bridge:
            link = ResumeLinks(bridge.settings).make(uuid.uuid4(), datetime.now(UTC) + timedelta(hours=1))
            assert link
            token = link.rpartition("/")[2]
            assert bridge.http.get(link).status_code == 303
            bridge.http.get(f"/resume/{token}/and/more?Fild1=Ada%20Lovelace")
            bridge.http.get("/sandbox/pay/page_of-somebody")
            assert lines.one(route="/resume/{token}")["status"] == 303
            assert lines.one(route="none")["status"] == 404
            assert lines.one(route="/sandbox/pay/{page_id}")["status"] == 404
        assert token not in "".join(lines.written)
        assert "Lovelace" not in "".join(lines.written)

    def test_probes_are_only_logged_when_they_fail(self, bridge: Bridge, buyer: Buyer, lines: Lines) -> None:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert bridge.http.get(path).status_code == 200
        buyer.verify(session_id=uuid.uuid4())
        lines.one(route="/verify")
        assert {line["route"] for line in lines.all(event="request")} == {"/verify"}

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, "né", TOKEN * 3, "a\tb", '{"a":1}'])
    def test_a_strange_request_id_is_replaced(self, bridge: Bridge, given: str) -> None:
        answer = bridge.http.get("/healthz", headers=[(b"X-Request-Id", given.encode())])
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert len(answer.headers.get_list("x-request-id")) == 1


class TestRedaction:
    @pytest.mark.parametrize(
        ("said", "logged"),
        [
            (f"told {EMAIL}, and {EMAIL.replace('@', '%40')}", "told [email], and [email]"),
            ("Key (email)=(müller+x@köln.example.test) exists", "Key (email)=([email]) exists"),
            (f"the token {TOKEN} has expired", "the token [redacted] has expired"),
            (f"GET /resume/{TOKEN}", "GET /resume/[redacted]"),
            ("Authorization: Bearer abcdefgh", "Authorization: [redacted]"),
            ("[(b'authorization', b'Basic dXNlcjpw')]", "[(b'authorization', b'[redacted]')]"),
            ("sent Bearer sb_secret_abc twice", "sent Bearer [redacted] twice"),
            ("sk_live_abc, rk_test_abc, whsec_abc+/=", "[redacted], [redacted], [redacted]"),
            ("intent pi_3N_secret_abc", "intent [redacted]"),
            ('{"client_secret": "a b", "id": "pi_1"}', '{"client_secret": "[redacted]", "id": "pi_1"}'),
            ("PassP=yaad&Masof=0010&KEY=7110e", "PassP=[redacted]&Masof=0010&KEY=[redacted]"),
            ("host=db password=hunter2 user=x", "host=db password=[redacted] user=x"),
            ("postgresql://me:hunter2@db:5432/shop is away", "postgresql://[redacted]@db:5432/shop is away"),
            ("https://pay.test/p/?Id=1&Fild1=Ada%20L asked", "https://pay.test/p/?[redacted] asked"),
            ("GET /return/hypay?Fild1=Ada HTTP/1.1", "GET /return/hypay?[redacted] HTTP/1.1"),
            (f"cards {CARD}, 4242 4242 4242 4242 and 3782-822463-10005", "cards [card], [card] and [card]"),
            ('{"pan": "8600123412341235"}', '{"pan": "[redacted]"}'),
        ],
    )
    def test_it_takes_out_what_is_private(self, said: str, logged: str) -> None:
        assert Redactor().text(said) == logged

    @pytest.mark.parametrize(
        "said",
        [
            "evt_1MqqbKLt4dXK03v5qaIbiNCC cs_test_a1 pi_3MtwBwLkdIwHu7ix28a3tqPa re_4242424242424242",
            "WH-58D329510W468432D-8HN650336L201105X 5O190127TN364715T 27702360 1732099200000 1732099200000000",
            f"{int(CARD) + 1} 4242-4242-4242-42424242 2026-11-20 10:00:00.000000 +998 90 123 45 67 10.0.0.1:5432",
            "stripe webhook 'evt_1' not applied: wrong_mode; the bearer token is missing; risk_level task_id",
            "duplicate key value violates unique constraint; password authentication failed for user shop",
            "what? why=not: 1 @ 2 = 3 ://",
        ],
    )
    def test_it_leaves_what_operators_need(self, said: str) -> None:
        assert Redactor().text(said) == said

    @given(st.uuids(), st.binary(min_size=12, max_size=20).map(bytes.hex), st.integers(0, 10**12))
    def test_it_never_takes_an_id_for_a_card(self, session: uuid.UUID, reference: str, number: int) -> None:
        said = f"session {session} reference {reference} {session.hex} {number}"
        if not re.search(r"\b\d{13,19}\b", said):  # a number of 13 digits may be a card's
            assert Redactor().text(said) == said

    def test_it_knows_the_secrets_of_the_settings_in_every_form(self) -> None:
        secrets: dict[str, Any] = {
            "hypay_api_password": "pass w/rd&#", "paystack_secret_keys": "first-key,second-key",
            "database_url": "postgresql://shop:d%40ta%20base@db/x", "smtp_url": "smtp://u:m%40il-word@mail.test",
            "mail_from": "Shop <pay@shop.test>", "operator_webhook": "https://hooks.test/services/T0/B0/secret",
            "jwt_secret": 'quo"ted\\secret', "link_secret": "x" * 32, "admin_token": "an-admin-token-of-ours",
        }  # fmt: skip
        redact = Redactor(secrets_of(load_settings(_env_file=None, **secrets)))
        for form in (
            "pass w/rd&#", "pass%20w%2Frd%26%23", "pass+w%2Frd%26%23", "first-key", "second-key", "d@ta base",
            "d%40ta%20base", "m@il-word", "/services/T0/B0/secret", 'quo"ted\\secret', repr('quo"ted\\secret')[1:-1],
            "x" * 32, "an-admin-token-of-ours",
        ):  # fmt: skip
            assert redact.text(f"<{form}>") == "<[redacted]>", form

    def test_hostile_text_is_read_in_no_time(self) -> None:
        redact = Redactor({"secret-of-ours"})
        pieces = "eyJ", "a.", "?a=", "://", "4", "eyJ0123456789", "'token': ", "bearer ", "secret_", "pi_", '"token":"'
        for piece in (*pieces, "Bearer" + " " * 999, "authorization", "a@", "4242 4242 4242 ", "%40", "a%40a."):
            assert len(redact.text(piece * (100_000 // len(piece)))) < 20_000


class TestFormat:
    def record(self, message: str, *args: object, **more: object) -> logging.LogRecord:
        return logging.makeLogRecord(
            {"name": "somebody.else", "levelname": "ERROR", "levelno": 40, "msg": message, "args": args, **more}
        )

    def test_fields_arguments_and_what_is_in_them_are_redacted(self) -> None:
        class Person:
            def __repr__(self) -> str:
                return f"Person({EMAIL})"

        record = self.record(
            "%s wrote", EMAIL, password="hunter2", amount=500, pan=int(CARD), number=int(CARD),
            people=[{EMAIL: Person(), "cookie": "x"}], color_message=EMAIL,
        )  # fmt: skip
        assert json.loads(formatter(Redactor()).format(record)) | {"timestamp": ""} == {
            "event": "[email] wrote", "timestamp": "", "level": "error", "logger": "somebody.else", "amount": 500,
            "password": "[redacted]", "pan": "[redacted]", "number": "[card]",
            "people": [{"[email]": "Person([email])", "cookie": "[redacted]"}],
        }  # fmt: skip

    @pytest.mark.parametrize("text", [False, True])
    def test_a_trace_is_a_field_without_the_values_of_variables(self, text: bool) -> None:
        local = "the-value-of-a-variable"
        try:
            try:
                raise LookupError(local[:3])
            except LookupError as error:
                raise ValueError(f"no such buyer: {EMAIL}") from error
        except ValueError:
            line = formatter(Redactor(), text=text).format(self.record("failed", exc_info=sys.exc_info()))
        assert "no such buyer: [email]" in line
        assert local not in line
        assert EMAIL not in line
        if not text:
            assert [found["exc_type"] for found in json.loads(line)["exception"]] == ["ValueError", "LookupError"]
            assert len(line.splitlines()) == 1

    def test_a_trace_needs_no_further_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "structlog.tracebacks", None)  # as where no more files can be opened
        try:
            raise ValueError(EMAIL)
        except ValueError:
            line = formatter(Redactor()).format(self.record("failed", exc_info=sys.exc_info()))
        assert "ValueError: [email]" in json.loads(line)["exception"]

    def test_nothing_went_wrong_where_a_trace_was_wanted(self) -> None:
        assert "exception" not in formatter(Redactor()).format(self.record("failed", exc_info=(None, None, None)))

    def test_a_line_that_cannot_be_formatted_is_missed_but_not_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = json.loads(formatter(Redactor()).format(self.record("%d of %d", EMAIL)))
        assert line["event"] == "a line could not be logged: TypeError"
        assert EMAIL not in str(line) + str(capsys.readouterr())

    @pytest.mark.parametrize(
        ("log_format", "terminal", "text"),
        [("auto", True, True), ("auto", False, False), ("json", True, False), ("console", False, True)],
    )
    def test_people_at_a_terminal_get_text(
        self, monkeypatch: pytest.MonkeyPatch, log_format: str, terminal: bool, text: bool
    ) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return terminal

        shown = Terminal()
        with own_logging():
            monkeypatch.setattr(sys, "stderr", shown)
            configure(load_settings(_env_file=None, log_format=log_format, jwt_secret="a-secret"))
            configure(load_settings(_env_file=None, log_format=log_format, jwt_secret="a-secret", log_level="warning"))
            logging.getLogger("anybody").info("not told")
            logging.getLogger("anybody").warning("%s and %s", EMAIL, "a-secret")
        assert "[email] and [redacted]" in shown.getvalue()
        assert len(shown.getvalue().splitlines()) == 1
        assert shown.getvalue().startswith("{") != text

    def test_text_cannot_begin_a_line_of_its_own(self) -> None:
        assert len(formatter(Redactor()).format(self.record("a\nb\u2028c\r{}\ud800")).splitlines()) == 1


class TestContext:
    def test_the_first_session_of_a_request_stays_and_the_next_request_has_none(self, lines: Lines) -> None:
        first, second = uuid.uuid4(), uuid.uuid4()
        log = logging.getLogger("pgcheckout")
        about_request("one")
        about_session(first)
        about_session(second)
        log.info("a")
        with working_on(second):
            log.info("b")
        log.info("c")
        about_request("two")
        about_session(None)
        log.info("d")
        assert [line.get("session_id") for line in lines.all()] == [str(first), str(second), str(first), None]


class TestCommands:
    def test_serve_logs_json_from_every_process(self, db: Database, tmp_path: Path) -> None:
        port = free_port()
        settings = {"database_url": db.url(), "jwt_secret": KEYS.shared_secret}
        command = arguments("serve", "--port", str(port), "--workers", "2")
        log = tmp_path / "log"
        with (
            log.open("w") as stderr,
            subprocess.Popen(command, env=environment(settings), cwd=tmp_path, stderr=stderr) as process,
        ):
            try:
                wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 60.0)
                # the first to answer need not be the last to start
                wait_until(lambda: log.read_text().count("Started server process") == 2, 60.0)
                headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "mine"}
                asked = httpx.post(
                    f"http://127.0.0.1:{port}/verify?a={EMAIL}", headers=headers, json={"reference": "x"}
                )
                assert asked.status_code == 404
                assert "server" not in asked.headers
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=30)
        err = log.read_text()
        SCANNER.read(err)
        said = [json.loads(line) for line in err.splitlines()]
        assert sum(line["event"].startswith("Started server process") for line in said) == 2
        (line,) = (line for line in said if line.get("request_id") == "mine")
        assert (line["route"], line["status"]) == ("/verify", 404)
        assert TOKEN not in err
        assert EMAIL not in err


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=20.0).status_code == 200
    except httpx.ConnectError:
        return False


class TestScanner:
    @pytest.mark.parametrize(
        "line",
        [
            f"a {TOKEN}", f"to {EMAIL}", f"card={CARD}", "4242 4242 4242 4242", "sk_test_1", "whsec_1",
            "postgresql://u:pw@h", "PassP=yaad", KEYS.shared_secret,
        ],
    )  # fmt: skip
    def test_it_finds_what_gets_through(self, line: str) -> None:
        scanner = Scanner()
        scanner.read(f"fine\nnot {line} fine\nfine")
        (found,) = scanner.found
        assert line in found
        assert "test_it_finds_what_gets_through" in found

    def test_it_reads_what_our_formatter_makes_of_any_record(self) -> None:
        scanner = Scanner()
        record = logging.makeLogRecord({"msg": "to %s", "args": (EMAIL,)})
        scanner.handle(record)
        assert (scanner.found, scanner.lines) == ([], 1)
        scanner.setFormatter(logging.Formatter())
        scanner.handle(record)
        assert len(scanner.found) == 1

    def test_the_run_fails_when_something_got_through(self, tmp_path: Path) -> None:
        (tmp_path / "test_leak.py").write_text(
            "import logging\n"
            "from tests.support.log_scanner import SCANNER\n"
            "def test_leak():\n"
            "    SCANNER.setFormatter(logging.Formatter())\n"
            f"    logging.getLogger('anybody').warning('to %s', '{EMAIL}')\n"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.support.log_scanner"]
        command += ["--rootdir", str(tmp_path), str(tmp_path)]
        ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert ran.returncode == 1, ran.stderr
        assert "1 passed" in ran.stdout
        assert f"an address in the log of test_leak.py::test_leak (call): to {EMAIL}" in ran.stdout
