"""What must not be read in a log is taken out of it here, wherever it stood: message, field, traceback.

Every expression is linear in the text: a run of characters is entered once, at its beginning, and never given back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from pydantic import SecretStr

from bridge.settings import Settings

__all__ = ["HIDDEN", "Redactor", "secrets_of"]

HIDDEN, EMAIL, CARD = "[redacted]", "[email]", "[card]"

# a shorter secret would take ordinary words out of every line
_SHORTEST_SECRET = 6
_FEWEST_DIGITS = 13  # of a card
_LONGEST_TEXT = 16_384
_DEEPEST = 8

_NAMES = (
    r"passp|password|passwd|pwd|secret|client_secret|api_?key|access_token|refresh_token|id_token|token|signature"
    r"|sign_string|cvv2?|cvc|card_?number|pan"
)
# of an address that is a secret: the password, and the path of one that somebody's webhook listens at
_SECRET_PARTS = re.compile(r"(?:https?://[^/]*(/\S*)|\w+://[^:/@\s]*:([^@\s]+)@)")
_USERINFO = re.compile(r"(://)[^\s/?#\"'<>]*@")
_QUERY = re.compile(r"(?<=[\w/.~%\-])\?[\w.\[\]%\-]++=[^\s\"'<>]*")
# a header is base64 of {"…
_JWT = re.compile(r"(?<![\w\-])(?=[\w\-]*?eyJ[\w\-]{10})[\w\-]++\.[\w\-]{4,}+(?:\.[\w\-]*+)*")
_BEARER = re.compile(r"\b(bearer|basic)((?:\s|%20)+)[\w.~+/=\-]{6,}", re.IGNORECASE)
_HEADER = re.compile(r"\b((?:proxy-)?authorization|cookie)\b(\s*[:=]\s*)[^\r\n\"']+", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?<![a-z0-9])({_NAMES}|key)=(?:\"[^\"]*\"|'[^']*'|[^\s&;,\"'<>]+)", re.IGNORECASE)
_QUOTED = re.compile(rf"([\"'](?:\w+_)?(?:{_NAMES}|authorization)[\"']\s*[:,]\s*b?)([\"'])[^\"']*\2", re.IGNORECASE)
_PROVIDER_KEY = re.compile(r"(?<![A-Za-z0-9])(?:[sr]k_|whsec_|sb_secret_)[\w+/=\-]{2,}")
_CLIENT_SECRET = re.compile(r"(?<!\w)(?:pi|seti|cs|src)_(?=\w*?secret_)\w++")
_ADDRESS = re.compile(r"(?<![\w.+'\-])[\w.+'\-]++(?:@|%40)[\w\-]{1,63}(?:\.[\w\-]{1,63})++")
# no card begins with 0 or 1, but clocks that count milliseconds do; ids have letters, or hyphens in other places
_NUMBER = re.compile(
    r"(?<![\w\-.])(?:[2-9]\d{12,18}|[2-9]\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{5})(?![\w\-])"
)
# an expression is only tried on a text that has one of these signs
_RULES = (
    (("://",), _USERINFO, rf"\1{HIDDEN}@"),
    (("?",), _QUERY, f"?{HIDDEN}"),
    (("eyJ",), _JWT, HIDDEN),
    (("=",), _ASSIGNED, rf"\1={HIDDEN}"),
    (("'", '"'), _QUOTED, rf"\1\2{HIDDEN}\2"),
    ((" ", "%20"), _BEARER, rf"\1\2{HIDDEN}"),
    (("=", ":"), _HEADER, rf"\1\2{HIDDEN}"),
    (("_",), _PROVIDER_KEY, HIDDEN),
    (("secret_",), _CLIENT_SECRET, HIDDEN),
    (("@", "%40"), _ADDRESS, EMAIL),
)
_PRIVATE_FIELD = re.compile(rf"(?:\w+[_-])?(?:{_NAMES}|authorization|cookie|email)", re.IGNORECASE)


def secrets_of(settings: Settings) -> set[str]:
    """The values of all secret settings, and the passwords inside those that are addresses."""
    found: set[str] = set()
    for value in vars(settings).values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, SecretStr):
                found |= _forms_of(part.get_secret_value())
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}


def _forms_of(secret: str) -> set[str]:
    forms = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    if found := _SECRET_PARTS.match(secret):
        for part in filter(None, found.groups()):
            forms |= {part, *_forms_of(unquote(part))}
    return forms


class Redactor:
    """Takes secrets and personal data out of text, or out of everything in an event."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # a secret may contain another one
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The same event without what is private."""
        return {name: HIDDEN if _is_private(name) else self.value(value) for name, value in event.items()}

    def value(self, value: Any, depth: int = 0) -> Any:
        """The same value without what is private; what is neither text, number nor collection becomes text."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return CARD if _is_card(str(value)) else value
        if depth < _DEEPEST:
            if isinstance(value, Mapping):
                return {
                    self.text(str(name)): HIDDEN if _is_private(str(name)) else self.value(one, depth + 1)
                    for name, one in value.items()
                }
            if isinstance(value, list | tuple | set | frozenset):
                return [self.value(one, depth + 1) for one in value]
        return self.text(str(value))

    def text(self, text: str) -> str:
        """The text without what is private, and not longer than a log can bear."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        for signs, expression, replacement in () if text.isalnum() else _RULES:
            for sign in signs:  # any() would take longer than all of them
                if sign in text:
                    text = expression.sub(replacement, text)
                    break
        if len(text) >= _FEWEST_DIGITS:
            text = _NUMBER.sub(_without_card, text)
        if len(text) > _LONGEST_TEXT:
            text = f"{text[:_LONGEST_TEXT]}… ({len(text) - _LONGEST_TEXT} more)"
        return text


@lru_cache(256)
def _is_private(name: str) -> bool:
    return _PRIVATE_FIELD.fullmatch(name) is not None


def _without_card(found: re.Match[str]) -> str:
    return CARD if _is_card(found[0]) else found[0]


def _is_card(text: str) -> bool:
    """Whether the digits could be a card's: as many as a card has, and Luhn's sum is right."""
    digits = [int(digit) for digit in text if digit.isdecimal()]
    if not _FEWEST_DIGITS <= len(digits) <= 19 or digits[0] < 2:
        return False
    return (sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])) % 10 == 0
