"""From an entry of the outbox to a letter, by templates: ``<kind>.txt`` (its first line is the subject) and
``<kind>.html``. A folder of your own takes precedence, file by file."""

from __future__ import annotations

from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined, TemplateError, select_autoescape

from bridge.errors import MailRefused, SetupError
from bridge.mail.links import ResumeLinks
from bridge.money import display_amount
from bridge.rpc import Letter
from bridge.settings import Settings

__all__ = ["Writer"]

_OURS = Path(__file__).parent / "templates"


class Writer:
    """Writes letters."""

    def __init__(self, settings: Settings) -> None:
        folders = [FileSystemLoader(path) for path in (settings.mail_templates, _OURS) if path]
        self._templates = Environment(
            loader=ChoiceLoader(folders),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._settings = settings
        self._links = ResumeLinks(settings)

    def write(self, letter: Letter) -> EmailMessage | None:
        """The letter, ready to be sent; None when it is for an operator who wants none.

        The same entry gives the same Message-ID, however often it is sent: mail programs show it once. Raises
        SetupError for a template that cannot be used, MailRefused for an address that is none.
        """
        to = self._settings.operator_email if letter.email is None else letter.email
        if to is None:
            return None
        sender = self._settings.mail_from or ""
        values = self._values(letter)
        try:
            text = self._templates.get_template(f"{letter.kind}.txt").render(values)
            html = self._templates.get_template(f"{letter.kind}.html").render(values)
        except TemplateError as error:
            raise SetupError(
                f"The template of {letter.kind} cannot be used: {type(error).__name__}: {error}.",
                "See PGCHECKOUT_MAIL_TEMPLATES.",
            ) from None
        subject, _, body = text.partition("\n")
        message = EmailMessage()
        try:
            message["Subject"] = " ".join(subject.split())
            message["From"] = sender
            # one address: whatever else a buyer has written is not sent to
            message["To"] = Address(addr_spec=to) if letter.email is not None else to
        except (ValueError, LookupError, MessageError):
            raise MailRefused("The address cannot be used.") from None
        message["Message-ID"] = f"<pgcheckout-{letter.number}@{parseaddr(sender)[1].rpartition('@')[2]}>"
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
