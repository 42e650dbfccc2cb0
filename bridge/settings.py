"""Settings: one environment variable each, read once at the edge.

Every variable starts with ``PGCHECKOUT_``; a ``.env`` file in the working directory is read too, and the environment
wins. docs/settings.md lists them, and a test holds that table to this class.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    DirectoryPath,
    Field,
    FilePath,
    HttpUrl,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bridge.errors import SetupError

__all__ = ["ENV_FILE", "Settings", "load_settings"]

ENV_FILE = ".env"  # of the working directory, never of one above

_LISTS = ("cors_origins", "paystack_secret_keys", "paystack_source_ips", "stripe_webhook_secrets", "trusted_proxies")
_MAY_BE_EMPTY = ("database_role", "paystack_source_ips")


class Settings(BaseSettings):
    """What an installation can choose."""

    model_config = SettingsConfigDict(env_prefix="PGCHECKOUT_", env_file=ENV_FILE, extra="ignore", frozen=True)

    environment: Literal["production", "development"] = Field(
        "production", description="`development` allows the sandbox provider."
    )
    public_url: HttpUrl = Field(
        HttpUrl("http://127.0.0.1:8000"), description="Where browsers and providers reach the bridge."
    )
    success_url: HttpUrl = Field(
        HttpUrl("http://127.0.0.1:8000/"), description="Page of your app for buyers who have paid or are about to."
    )
    cancel_url: HttpUrl = Field(
        HttpUrl("http://127.0.0.1:8000/"), description="Page of your app for buyers who came back without paying."
    )
    default_provider: str = Field("stripe", description="Provider of a checkout that names none.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of web apps that may call the bridge, separated by commas. None by default."
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (), description="Proxies in front of the bridge (addresses or networks, commas) whose `X-Forwarded-For` counts."
    )
    admin_token: SecretStr | None = Field(
        None, min_length=16, description="Opens `/admin/…`; closed without one. At least 16 characters."
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Opens `/metrics` to who sends it as a bearer; without one it is closed in production, open in "
        "development. At least 16 characters.",
    )
    max_body_bytes: int = Field(524_288, ge=1024, description="Largest request body that is read.")
    max_body_seconds: float = Field(20.0, gt=0, description="Longest time that a request body may take to arrive.")
    max_concurrent_requests: int = Field(
        500, ge=1, description="Requests that one process works on at once; more are answered 503."
    )
    requests_per_minute: int = Field(
        300,
        ge=0,
        description="From one public address (an IPv6 /64), per process; genuine webhooks do not count. 0: no limit.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: text where stderr is a terminal, elsewhere one JSON object per line."
    )

    database_url: SecretStr | None = Field(
        None,
        description="Direct Postgres connection (the fast path), as `postgres` or a role that inherits `service_role`.",
    )
    database_role: str = Field(
        "service_role", description="Role that each connection takes. Empty behind a transaction-mode pooler."
    )
    database_pool_size: int = Field(8, ge=1, le=100, description="Most connections to keep.")
    database_prepared: bool = Field(
        True, description="Prepare statements. `false` behind a pooler that cannot keep them."
    )
    outcomes_per_call: int = Field(
        16, ge=1, le=32, description="Most webhooks that share a transaction while more come than the database handles."
    )
    supabase_url: HttpUrl | None = Field(None, description="Project URL, for RPC over HTTP and for its signing keys.")
    supabase_service_key: SecretStr | None = Field(
        None, description="Secret (service) key: RPC over HTTP, used when there is no `DATABASE_URL`."
    )

    jwt_secret: SecretStr | None = Field(None, description="Legacy HS256 secret of the project's user tokens.")
    jwks_url: HttpUrl | None = Field(
        None, description="Public keys of the project's user tokens; by default those of `SUPABASE_URL`."
    )
    jwt_audience: str = Field("authenticated", description="Audience that user tokens must have.")

    stripe_secret_key: SecretStr | None = Field(None, description="Stripe API key, `sk_…` or `rk_…`.")
    stripe_webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Signing secrets of the webhook endpoint, `whsec_…`; two with a comma during a roll-over.",
    )
    stripe_api_url: HttpUrl = Field(HttpUrl("https://api.stripe.com"), description="For tests against a simulator.")

    paystack_secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Paystack secret key, `sk_…`; two with a comma during a roll-over, the first one makes the calls.",
    )
    paystack_source_ips: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        tuple(map(ip_network, ("52.31.139.75", "52.49.173.169", "52.214.14.220"))),
        description="Where Paystack's webhooks come from. Empty: not checked.",
    )
    paystack_api_url: HttpUrl = Field(HttpUrl("https://api.paystack.co"), description="For tests against a simulator.")

    click_merchant_id: str | None = Field(None, description="Click merchant.")
    click_service_id: str | None = Field(None, description="Click service.")
    click_merchant_user_id: str | None = Field(None, description="Click user of the Merchant API.")
    click_secret_key: SecretStr | None = Field(None, description="Click key of signatures and of the Merchant API.")
    click_page_url: HttpUrl = Field(
        HttpUrl("https://my.click.uz/services/pay"), description="For tests against a simulator."
    )
    click_api_url: HttpUrl = Field(
        HttpUrl("https://api.click.uz/v2/merchant"), description="For tests against a simulator."
    )

    hypay_terminal: str | None = Field(None, description="HyPay terminal (Masof), 10 digits.")
    hypay_api_key: SecretStr | None = Field(None, description="HyPay API key (KEY).")
    hypay_api_password: SecretStr | None = Field(None, description="HyPay API password (PassP).")
    hypay_page_language: Literal["HEB", "ENG"] = Field("HEB", description="Language of HyPay's page.")
    hypay_url: HttpUrl = Field(HttpUrl("https://pay.hyp.co.il/p/"), description="For tests against a simulator.")

    paypal_client_id: str | None = Field(None, description="PayPal REST app.")
    paypal_client_secret: SecretStr | None = Field(None, description="Its secret.")
    paypal_webhook_id: str | None = Field(None, description="Id of the app's webhook; part of each signature.")
    paypal_api_url: HttpUrl | None = Field(
        None, description="By default PayPal's live API in production, its sandbox in development."
    )
    paypal_ca_file: FilePath | None = Field(None, description="CA of webhook certificates, for tests.")

    smtp_url: SecretStr | None = Field(
        None,
        description="Mail server: `smtp://user:password@host:587` (STARTTLS) or `smtps://…:465`. None: no letters.",
    )
    mail_from: str | None = Field(None, description="Sender of letters, `Shop <pay@example.com>`.")
    operator_email: str | None = Field(None, description="Who is told what needs a person. None: the log only.")
    operator_webhook: SecretStr | None = Field(
        None,
        description="Address that the operator is told by (a JSON POST with `text`, as Slack takes it), besides the "
        "mail. The address is a secret.",
    )
    mail_templates: DirectoryPath | None = Field(
        None, description="Folder with templates of your own, used instead of those of the same name."
    )
    link_secret: SecretStr | None = Field(
        None, min_length=32, description="Signs the links of reminders. None: they lead to the payment page as it was."
    )

    sandbox_secret: SecretStr | None = Field(
        None, description="Turns the sandbox provider on (development only): key of its API and of its signatures."
    )
    sandbox_url: HttpUrl | None = Field(None, description="Where the sandbox runs; by default inside the bridge.")

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: dict[str, object]) -> dict[str, object]:
        # a variable left empty counts as not set, but where being empty means something
        values = {name: value for name, value in values.items() if value != "" or name in _MAY_BE_EMPTY}
        for name in _LISTS:
            value = values.get(name)
            if isinstance(value, str):
                values[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        return values

    @model_validator(mode="after")
    def _no_sandbox_in_production(self) -> Self:
        if self.environment == "production" and self.sandbox_secret:
            raise ValueError(
                "PGCHECKOUT_SANDBOX_SECRET is set in production: anybody could pay with play money. "
                "Remove it, or set PGCHECKOUT_ENVIRONMENT=development."
            )
        return self

    @model_validator(mode="after")
    def _letters_have_a_sender(self) -> Self:
        if self.smtp_url and not self.mail_from:
            raise ValueError("PGCHECKOUT_MAIL_FROM is missing: letters need a sender.")
        return self

    @model_validator(mode="after")
    def _operators_are_told_in_private(self) -> Self:
        url = self.operator_webhook.get_secret_value() if self.operator_webhook else "https://none"
        allowed = ("https", "http") if self.environment == "development" else ("https",)
        try:
            valid = urlsplit(url).scheme in allowed and bool(urlsplit(url).hostname)
        except ValueError:  # its message quotes the address
            valid = False
        if not valid:
            raise ValueError("PGCHECKOUT_OPERATOR_WEBHOOK is not an https:// address.")
        return self

    @field_validator("smtp_url")
    @classmethod
    def _is_a_mail_server(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            parts = urlsplit(url.get_secret_value() if url else "smtp://none")
            valid = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # its message quotes what may be a password
            valid = False
        if not valid:
            raise ValueError("not a mail server; write smtp://user:password@host:port, special characters as %XX")
        return url

    @field_validator("database_url")
    @classmethod
    def _can_be_read(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            host = conninfo_to_dict(url.get_secret_value() if url else "").get("host")
        except ProgrammingError:  # its message quotes the URL, which holds a password
            host = "@"
        if "@" in str(host):  # a part of the password was taken for the host, and would be shown as such
            raise ValueError("not a Postgres URL; percent-encode special characters of the password")
        return url

    @property
    def keys_url(self) -> str | None:
        """Where the project publishes the public keys of its user tokens."""
        if self.jwks_url:
            return str(self.jwks_url)
        return str(self.supabase_url).rstrip("/") + "/auth/v1/.well-known/jwks.json" if self.supabase_url else None

    def url(self, path: str) -> str:
        """An address below ``public_url``."""
        return str(self.public_url).rstrip("/") + path


def load_settings(**overrides: object) -> Settings:
    """Read the environment and the file; raises SetupError that names each wrong variable."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type] # values are checked by pydantic
    except OSError as error:
        remedy = "Let this user read it, or run pgcheckout in another folder."
        raise SetupError(f"{ENV_FILE} cannot be read: {error.strerror}.", remedy) from None
    except UnicodeDecodeError:
        raise SetupError(f"{ENV_FILE} is not text in UTF-8.", "Save it as such.") from None
    except ValidationError as error:
        lines = [_explain(problem["loc"], problem["msg"]) for problem in error.errors(include_input=False)]
        raise SetupError("; ".join(lines)) from None


def _explain(location: tuple[int | str, ...], message: str) -> str:
    name = f"PGCHECKOUT_{str(location[0]).upper()}: " if location else ""
    return name + message.removeprefix("Value error, ")
