"""`pgcheckout doctor` finds what is wrong with an installation and says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from bridge.doctor import Finding, examine
from bridge.doctor.settings import look_at_settings
from bridge.local.postgres import SUPERUSER
from bridge.settings import load_settings
from tests.support.command import run
from tests.support.database import Database
from tests.support.key_server import KeyServer, key_server
from tests.support.mail_server import MailServer

HEALTHY = {
    "public_url": "https://pay.example.com",
    "success_url": "https://app.example.com/thanks",
    "cancel_url": "https://app.example.com/cart",
    "jwt_secret": "a-legacy-secret-of-more-than-32-bytes",
    "stripe_secret_key": "sk_live_x",
    "stripe_webhook_secrets": "whsec_x",
    "operator_webhook": "https://hooks.example.com/T000/secret-of-the-hook",
}


@pytest.fixture(autouse=True)
def _no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _a_worker_is_at_work(request: pytest.FixtureRequest) -> None:
    if "db" in request.fixturenames:
        db: Database = request.getfixturevalue("db")
        db.as_service().rpc("record_heartbeat", p_name="worker")


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    with key_server() as server:
        yield server


def look(**settings: Any) -> dict[str, Finding]:
    """Findings by subject; of several with one subject, the worst."""

    async def collect() -> list[Finding]:
        chosen = {name: value for name, value in (HEALTHY | settings).items() if value is not None}
        return [finding async for finding in examine(load_settings(_env_file=None, **chosen))]

    findings: dict[str, Finding] = {}
    order = ("ok", "warning", "error")
    for finding in asyncio.run(collect()):
        known = findings.get(finding.subject)
        if known is None or order.index(finding.level) > order.index(known.level):
            findings[finding.subject] = finding
    for finding in findings.values():
        assert finding.message
        assert finding.remedy or finding.level == "ok"
    return findings


def levels(findings: dict[str, Finding]) -> dict[str, str]:
    return {subject: finding.level for subject, finding in findings.items() if finding.level != "ok"}


def test_a_healthy_installation_has_no_findings(db: Database) -> None:
    findings = look(database_url=db.url())
    assert levels(findings) == {}
    assert set(findings) == {
        "public_url", "success_url", "cancel_url", "stripe", "user tokens", "functions", "postgres", "migrations",
        "grants", "clock", "workers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "level", "said"),
    [(0o600, "ok", "the environment wins"), (0o640, "ok", "wins"), (0o644, "warning", "read it"),
     (0o646, "error", "change it"), (0o602, "error", "change it")],
)  # fmt: skip
def test_the_file_with_the_settings_is_nobody_elses(mode: int, level: str, said: str) -> None:
    file = Path(".env")
    file.touch()
    file.chmod(mode)
    finding = look()[".env"]
    assert finding.level == level
    assert said in finding.message


def test_what_is_misspelt_in_the_file_is_told_with_what_was_meant() -> None:
    Path(".env").write_text("PGCHECKOUT_SUCESS_URL=https://a.test\nPGCHECKOUT_ZZZZZZZZ=1\nOTHERS=1\n", "utf-8")
    told = [finding for finding in look_at_settings(load_settings()) if finding.subject == "settings"]
    assert [(finding.message, finding.remedy) for finding in told] == [
        ("PGCHECKOUT_SUCESS_URL is not a setting.", "Did you mean PGCHECKOUT_SUCCESS_URL?"),
        ("PGCHECKOUT_ZZZZZZZZ is not a setting.", "Remove it from .env."),
    ]


def test_a_database_that_was_never_migrated(empty_database: Database) -> None:
    findings = look(database_url=empty_database.url())
    assert levels(findings) == {"functions": "error", "migrations": "error"}
    assert "create_checkout_tables" in findings["migrations"].message
    assert "pgcheckout migrate" in findings["migrations"].remedy


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "grant execute on function public.get_latest_checkout_session to anon",
            "anon can execute public.get_latest_checkout_session",
        ),
        ("grant execute on function payments.fulfil_none to public", "anon can execute payments.fulfil_none"),
        (
            "revoke execute on function public.apply_payment_outcome from service_role",
            "service_role cannot execute public.apply_payment_outcome",
        ),
        (
            "alter table public.payment_checkout_sessions disable row level security",
            "row-level security is off on payment_checkout_sessions",
        ),
        ("alter table payments.captures disable row level security", "is off on payments.captures"),
    ],
    ids=lambda text: text[:45],
)
def test_broken_rights_are_named(db: Database, damage: str, said: str) -> None:
    db.sql(damage)
    findings = look(database_url=db.url())
    assert levels(findings) == {"grants": "error"}
    assert said in findings["grants"].message


def test_the_engines_schema_must_not_be_exposed(db: Database) -> None:
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        expose = "alter role authenticator in database {} set pgrst.db_schemas = 'public, payments'"
        admin.execute(sql.SQL(expose).format(sql.Identifier(db.name)))
    findings = look(database_url=db.url())
    assert levels(findings) == {"exposed schemas": "error"}


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_away() -> None:
    findings = look(database_url="postgresql://postgres@127.0.0.1:1/postgres")
    assert levels(findings) == {"postgres": "error"}  # and nothing that only follows from it
    assert "refused" in findings["postgres"].message
    assert "PGCHECKOUT_DATABASE_URL" in findings["postgres"].remedy


@pytest.mark.parametrize("ages", [{}, {"worker": 300}])
def test_without_a_worker_nobody_asks_or_writes(db: Database, ages: dict[str, int]) -> None:
    db.sql("delete from payments.heartbeats")
    for name, age in ages.items():
        db.sql("insert into payments.heartbeats (name, beat_at) values (%s, now() - %s * interval '1 s')", name, age)
    findings = look(database_url=db.url())
    assert levels(findings) == {"workers": "warning"}
    assert "pgcheckout work" in findings["workers"].remedy
    assert ("worker went silent" in findings["workers"].message) == bool(ages)
    db.as_service().rpc("record_heartbeat", p_name="another")
    assert levels(look(database_url=db.url())) == {}


def test_a_login_that_may_not_take_the_role(db: Database) -> None:
    stranger = "a_login_without_rights"
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        admin.execute(f"drop role if exists {stranger}")
        admin.execute(f"create role {stranger} login")
        admin.execute(f"grant usage on schema supabase_migrations to {stranger}")
        admin.execute(f"grant select on all tables in schema supabase_migrations to {stranger}")
    try:
        findings = look(database_url=db.url(stranger))
    finally:
        with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
            admin.execute(f"drop owned by {stranger}")
            admin.execute(f"drop role {stranger}")
    assert levels(findings) == {"role": "error"}  # and nothing that only follows from it
    assert f"grant service_role to {stranger};" in findings["role"].remedy


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_the_mail_server_is_greeted_and_gets_no_letter(db: Database) -> None:
    with MailServer(login=True) as server:

        def mail(password: str) -> Finding:
            url = f"smtp://{server.user}:{quote(password, safe='')}@127.0.0.1:{server.port}"
            return look(database_url=db.url(), smtp_url=url, mail_from="shop@example.com")["mail"]

        assert mail(server.password).level == "ok"
        refused = mail("wrong")
        assert server.letters == []
    assert (refused.level, "answered 535" in refused.message) == ("error", True)
    away = mail(server.password)
    assert (away.level, "cannot be reached" in away.message) == ("error", True)
    assert "PGCHECKOUT_SMTP_URL" in away.remedy


def test_incidents_that_nobody_is_told_of(db: Database) -> None:
    assert levels(look(database_url=db.url(), operator_webhook=None)) == {"alerts": "warning"}
    assert levels(look(database_url=db.url(), operator_webhook=None, operator_email="ops@example.com")) == {}


@pytest.mark.parametrize(
    "damage",
    [
        "grant execute on all functions in schema public to public; grant insert on payments.captures to authenticated",
        "revoke execute on function public.get_or_create_checkout_session from service_role, authenticated;"
        "alter table payments.captures disable row level security",
    ],
    ids=["too much", "too little"],
)
def test_the_remedy_of_wrong_rights_can_be_pasted(db: Database, damage: str) -> None:
    db.sql(damage)
    db.sql(look(database_url=db.url())["grants"].remedy.removeprefix("As postgres: "))
    assert levels(look(database_url=db.url())) == {}


def test_keys_and_addresses_of_the_wrong_form(db: Database) -> None:
    def said(**settings: Any) -> Finding:
        (subject,) = levels(findings := look(database_url=db.url(), **settings))
        return findings[subject]

    assert "API key" in said(stripe_secret_key="whsec_x").message
    assert "webhook secret" in said(stripe_webhook_secrets="sk_live_x").message
    assert "STRIPE_WEBHOOK_SECRETS is missing" in said(stripe_webhook_secrets=None).message
    assert said(stripe_secret_key="sk_test_x").level == "warning"
    assert said(public_url="http://pay.example.com").subject == "public_url"
    assert said(success_url="https://localhost/").subject == "success_url"
    assert "No way to check" in said(jwt_secret=None).message


def test_a_provider_that_is_half_set_names_what_is_missing(db: Database) -> None:
    found = look(database_url=db.url(), paypal_client_id="app", hypay_terminal="0010131918", hypay_api_key="key")
    assert levels(found) == {"paypal": "error", "hypay": "error"}
    assert found["hypay"].message == "PGCHECKOUT_HYPAY_API_PASSWORD is missing, so HyPay is off."
    missing = "PGCHECKOUT_PAYPAL_CLIENT_SECRET and PGCHECKOUT_PAYPAL_WEBHOOK_ID are missing, so PayPal is off."
    assert found["paypal"].message == missing
    whole = look(database_url=db.url(), paystack_secret_keys="sk_live_x")
    assert (levels(whole), whole["paystack"].level) == ({}, "ok")


def test_play_money_in_production_is_a_warning(db: Database) -> None:
    hypay = {"hypay_terminal": "0010131918", "hypay_api_key": "key", "hypay_api_password": "password"}
    found = look(database_url=db.url(), paystack_secret_keys="sk_test_x", **hypay)
    assert levels(found) == {"paystack": "warning", "hypay": "warning"}
    assert found["hypay"].message == "on, test mode, production"
    assert levels(look(database_url=db.url(), **hypay | {"hypay_terminal": "4500131918"})) == {}


def test_no_provider_at_all_is_an_error(db: Database) -> None:
    assert levels(look(database_url=db.url(), stripe_secret_key=None, stripe_webhook_secrets=None)) == {
        "providers": "error"
    }
    half = look(database_url=db.url(), stripe_secret_key=None)
    assert levels(half) == {"stripe": "error"}
    assert "STRIPE_SECRET_KEY is missing" in half["stripe"].message


def test_signing_keys_are_looked_up(db: Database, keys: KeyServer) -> None:
    def tokens(**settings: Any) -> Finding:
        return look(database_url=db.url(), **settings)["user tokens"]

    keys.keys = [{"kty": "EC", "kid": "1"}]
    assert tokens(supabase_url=keys.url).level == "ok"
    keys.keys = []
    assert tokens(supabase_url=keys.url).level == "ok"  # the legacy secret is there
    assert tokens(supabase_url=keys.url, jwt_secret=None).level == "error"
    assert tokens(jwks_url=keys.url + "/elsewhere").level == "error"
    assert tokens(jwks_url="http://127.0.0.1:1/").level == "error"


def test_the_exit_code_says_whether_something_must_be_done(db: Database, tmp_path: Path) -> None:
    good = run(tmp_path, "doctor", **HEALTHY, database_url=db.url())
    assert (good.code, "ERROR" in good.out) == (0, False), good.out + good.err
    db.sql("grant execute on function public.apply_payment_outcome to anon")
    bad = run(tmp_path, "doctor", **HEALTHY, database_url=db.url())
    assert bad.code == 1
    assert "ERROR    grants: anon can execute public.apply_payment_outcome" in bad.out
    assert "-> As postgres: revoke execute on function public.apply_payment_outcome(" in bad.out
    for secret in ("jwt_secret", "stripe_secret_key"):
        assert HEALTHY[secret] not in bad.out + bad.err


@pytest.mark.parametrize(
    "opened",
    [
        "grant execute on function public.complete_checkout_session to authenticated",
        "grant execute on all functions in schema public to public",
        "grant insert on public.payment_credit_balances to authenticated",
        "revoke execute on function public.get_or_create_checkout_session from authenticated",
    ],
)
def test_every_grant_that_the_migrations_did_not_make_is_an_error(db: Database, opened: str) -> None:
    db.sql(opened)
    assert levels(look(database_url=db.url()))["grants"] == "error"


def test_a_login_of_its_own_must_bring_its_limits_and_its_isolation(db: Database) -> None:
    assert levels(look(database_url=db.url(), database_role="")) == {"time limits": "warning"}
    with psycopg.connect(db.url(SUPERUSER), autocommit=True) as admin:
        admin.execute(f"alter database {db.name} set default_transaction_isolation = 'repeatable read'")
        admin.execute(f"alter database {db.name} set statement_timeout = '8s'")
        admin.execute(f"alter database {db.name} set lock_timeout = '5s'")
    assert levels(look(database_url=db.url(), database_role="")) == {"isolation": "error"}
    assert levels(look(database_url=db.url())) == {}


def test_a_role_behind_a_transaction_pooler_is_an_error() -> None:
    pooled = "postgresql://postgres@127.0.0.1:6543/postgres"
    assert levels(look(database_url=pooled))["pooler"] == "error"
    assert "pooler" not in look(database_url=pooled, database_role="")


def test_a_version_that_another_project_uses_is_an_error(db: Database) -> None:
    db.sql("update supabase_migrations.schema_migrations set name = 'something_else'")
    assert "something_else" in look(database_url=db.url())["postgres"].message


def test_a_default_provider_that_is_off_is_an_error() -> None:
    off = look(default_provider="paypal")["providers"]
    assert (off.level, "paypal" in off.message) == ("error", True)
    only_sandbox = {"stripe_secret_key": None, "stripe_webhook_secrets": None, "sandbox_secret": "s"}
    assert look(environment="development", **only_sandbox)["providers"].level == "error"
    assert "providers" not in look(environment="development", default_provider="sandbox", **only_sandbox)


def test_a_mistyped_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCHECKOUT_PUBLC_URL", "https://pay.example.com")
    assert "PGCHECKOUT_PUBLC_URL" in look()["settings"].message
    assert look()["settings"].remedy == "Did you mean PGCHECKOUT_PUBLIC_URL?"
