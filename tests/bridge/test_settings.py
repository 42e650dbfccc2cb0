"""Settings come from the environment, and what is wrong with them is said with the variable's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import SetupError
from bridge.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """None of this machine's own variables or files."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PGCHECKOUT_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def refusal(**variables: str) -> str:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(f"PGCHECKOUT_{name}", value)
        with pytest.raises(SetupError) as caught:
            load_settings()
    return caught.value.message


def test_nothing_is_needed_to_begin_with() -> None:
    settings = load_settings()
    assert settings.environment == "production"
    assert settings.database_role == "service_role"


def test_lists_are_split_at_commas(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PGCHECKOUT_CORS_ORIGINS", "https://a.test, https://b.test,")
    environment.setenv("PGCHECKOUT_STRIPE_WEBHOOK_SECRETS", "whsec_new,whsec_old")
    settings = load_settings()
    assert settings.cors_origins == ("https://a.test", "https://b.test")
    assert [secret.get_secret_value() for secret in settings.stripe_webhook_secrets] == ["whsec_new", "whsec_old"]


def test_an_empty_variable_is_not_set(environment: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        environment.setenv(f"PGCHECKOUT_{name.upper()}", "")
    empty, default = load_settings().model_dump(), load_settings(_env_file=None, database_role="").model_dump()
    assert empty == default
    assert empty["sandbox_secret"] is None
    assert empty["database_role"] == ""  # which says: take no role


def test_a_file_in_the_folder_is_read_and_the_environment_wins(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PGCHECKOUT_DEFAULT_PROVIDER=sandbox\nPGCHECKOUT_JWT_AUDIENCE=file\n", "utf-8")
    environment.setenv("PGCHECKOUT_JWT_AUDIENCE", "environment")
    settings = load_settings()
    assert (settings.default_provider, settings.jwt_audience) == ("sandbox", "environment")


def test_a_file_that_cannot_be_read_stops_everything() -> None:
    Path(".env").write_bytes(b"PGCHECKOUT_JWT_AUDIENCE=caf\xe9\n")
    with pytest.raises(SetupError, match=r"\.env is not text in UTF-8"):
        load_settings()

    Path(".env").unlink()
    Path(".env").symlink_to("/proc/self/mem")  # root, too, gets an error from it
    with pytest.raises(SetupError, match=r"\.env cannot be read: Input/output error\."):
        load_settings()


def test_play_money_is_refused_in_production() -> None:
    message = refusal(SANDBOX_SECRET="play-secret")
    assert "PGCHECKOUT_SANDBOX_SECRET" in message
    assert "PGCHECKOUT_ENVIRONMENT=development" in message
    assert load_settings(environment="development", sandbox_secret="play-secret").sandbox_secret


def test_the_wrong_variable_is_named() -> None:
    for name, value in {
        "ENVIRONMENT": "staging",
        "PUBLIC_URL": "pay.example.com",
        "SUCCESS_URL": "javascript:alert(1)",
        "SUPABASE_URL": "nowhere",
        "MAX_BODY_BYTES": "many",
        "DATABASE_POOL_SIZE": "0",
        "DATABASE_PREPARED": "perhaps",
        "DATABASE_URL": "postgresql://u:p%ssword@db/x",
        "TRUSTED_PROXIES": "the proxy",
        "PAYSTACK_SOURCE_IPS": "52.31.139.75, everywhere",
        "ADMIN_TOKEN": "short",
        "LINK_SECRET": "short",
        "SMTP_URL": "mail.example.com",
        "MAIL_TEMPLATES": "/nowhere/at/all",
    }.items():
        assert f"PGCHECKOUT_{name}: " in refusal(**{name: value})


def test_every_wrong_variable_is_named_at_once() -> None:
    message = refusal(PUBLIC_URL="x", DATABASE_POOL_SIZE="many")
    assert "PGCHECKOUT_PUBLIC_URL" in message
    assert "PGCHECKOUT_DATABASE_POOL_SIZE" in message


def test_messages_do_not_quote_secrets() -> None:
    secret = "hunter%2-the-secret"
    for name in ("DATABASE_URL", "PUBLIC_URL", "SUPABASE_URL", "JWKS_URL"):
        assert secret not in refusal(**{name: f"postgresql://user:{secret}@h/%zz"})
    assert secret not in refusal(SANDBOX_SECRET=secret)


def test_settings_do_not_show_their_secrets() -> None:
    secrets: dict[str, Any] = {
        "database_url": "postgresql://u:hunter2@h/d", "supabase_service_key": "sb_secret_hunter2",
        "jwt_secret": "hunter2", "stripe_secret_key": "sk_live_hunter2", "stripe_webhook_secrets": "whsec_hunter2",
        "sandbox_secret": "hunter2", "environment": "development", "paystack_secret_keys": "sk_hunter2",
        "click_secret_key": "hunter2", "hypay_api_key": "hunter2", "hypay_api_password": "hunter2",
        "paypal_client_secret": "hunter2", "admin_token": "hunter2" * 4, "link_secret": "hunter2" * 5,
        "smtp_url": "smtp://u:hunter2@h", "mail_from": "pay@shop.test",
    }  # fmt: skip
    settings = load_settings(**secrets)
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_letters_need_a_sender() -> None:
    assert "PGCHECKOUT_MAIL_FROM is missing" in refusal(SMTP_URL="smtp://mail.example.com")
    for url in ("http://mail.example.com", "smtp://", "smtp://u:pa:ss@h:port", "smtp://u:hunter2@[h"):
        message = refusal(SMTP_URL=url, MAIL_FROM="pay@shop.test")
        assert "PGCHECKOUT_SMTP_URL" in message
        assert "hunter2" not in message
