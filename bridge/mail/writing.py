"""From an entry of the outbox to a letter, by templates: ``<kind>.txt`` (its first line is the subject) and
``<kind>.html``. A folder of your own takes precedence, file by file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import parseaddr
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.errors import MailRefused, SetupError
from bridge.mail.links import ResumeLinks
from bridge.money import display_amount
from bridge.rpc import Alert, Letter
from bridge.settings import Settings

if TYPE_CHECKING:  # 2 MB, for those who write
    from jinja2 import Environment

__all__ = ["Writer"]

_OURS = Path(__file__).parent / "templates"


class Writer:
    """Writes letters."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._links = ResumeLinks(settings)

    def write(self, letter: Letter) -> EmailMessage | None:
        """The letter, ready to be sent; None when it is for an operator who wants none.

        The same entry gives the same Message-ID, however often it is sent: mail programs show it once. Raises
        SetupError for a template that cannot be used, MailRefused for an address that is none.
        """
        if letter.email is None:
            return self._for_operator(letter.kind, self._values(letter), str(letter.number))
        try:
            # one address: whatever else a buyer has written is not sent to
            to = Address(addr_spec=letter.email)
        except (ValueError, LookupError, MessageError):
            raise _unusable() from None
        return self._compose(letter.kind, self._values(letter), to, str(letter.number))

    def write_alert(self, alert: Alert) -> EmailMessage | None:
        """The same for an incident: to the operator, or None."""
        return self._for_operator("alert", alert._asdict(), f"alert-{alert.number}")

    @cached_property
    def _templates(self) -> Environment:
        # see TYPE_CHECKING above
        from jinja2 import (  # noqa: PLC0415
            ChoiceLoader,
            Environment,
            FileSystemLoader,
            StrictUndefined,
            select_autoescape,
        )

        folders = [FileSystemLoader(path) for path in (self._settings.mail_templates, _OURS) if path]
        return Environment(
            loader=ChoiceLoader(folders),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def _for_operator(self, template: str, values: Mapping[str, Any], name: str) -> EmailMessage | None:
        to = self._settings.operator_email
        return None if to is None else self._compose(template, values, to, name)

    def _compose(self, template: str, values: Mapping[str, Any], to: str | Address, name: str) -> EmailMessage:
        from jinja2 import TemplateError  # noqa: PLC0415 # see TYPE_CHECKING above

        sender = self._settings.mail_from or ""
        try:
            text = self._templates.get_template(f"{template}.txt").render(values)
            html = self._templates.get_template(f"{template}.html").render(values)
        except TemplateError as error:
            raise SetupError(
                f"The template of {template} cannot be used: {type(error).__name__}: {error}.",
                "See PGCHECKOUT_MAIL_TEMPLATES.",
            ) from None
        subject, _, body = text.partition("\n")
        message = EmailMessage()
        try:
            message["Subject"] = " ".join(subject.split())
            message["From"] = sender
            message["To"] = to
        except (ValueError, LookupError, MessageError):
            raise _unusable() from None
        message["Message-ID"] = f"<pgcheckout-{name}@{parseaddr(sender)[1].rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(body.lstrip("\n"))
        message.add_alternative(html, subtype="html")
        return message

    def _values(self, letter: Letter) -> dict[str, Any]:
        said = dict(letter.payload)
        currency = str(said["currency"])
        if letter.kind == "reminder":
            expires_at = datetime.fromisoformat(said["expires_at"])
            said["expires_at"] = expires_at
            said["link"] = self._links.make(letter.session_id, expires_at) or said["checkout_url"]
        if "refund_amount" in said:
            said["refund"] = display_amount(int(said["refund_amount"]), currency)
        return {
            **said,
            "session_id": letter.session_id,
            "product": said["product_name"] or said["product_id"],
            "price": display_amount(int(said["amount"]), currency),
        }


def _unusable() -> MailRefused:
    return MailRefused("The address cannot be used.")
