"""The signatures of PayPal's webhooks: its certificates, fetched, checked and kept, and what is signed with them.

Sources: developer.paypal.com/api/rest/webhooks (message integrity, headers) and
developer.paypal.com/docs/api/webhooks/v1 (verify-webhook-signature).
"""

from __future__ import annotations

import base64
import json
import re
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from bridge.errors import ProviderUnavailable, SignatureInvalid
from bridge.providers.http import is_temporary
from bridge.providers.paypal_client import PayPalClient
from bridge.providers.shapes import MALFORMED
from bridge.settings import Settings

__all__ = ["PayPalSignatures", "signed_message"]

CERTIFICATE_HOSTS = frozenset(
    {"api.paypal.com", "api-m.paypal.com", "api.sandbox.paypal.com", "api-m.sandbox.paypal.com"}
)
CERTIFICATE_PATH = re.compile(r"/v1/notifications/certs/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
LARGEST_CERTIFICATE = 64 * 1024

_CERTIFICATE_TROUBLE = (
    ValueError, TypeError, LookupError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.ExtensionNotFound, x509.UnsupportedGeneralNameType,
)  # fmt: skip


def signed_message(transmission_id: str, transmission_time: str, webhook_id: str, body: bytes) -> bytes:
    """What PayPal signs; of the body only its CRC-32 (decimal), so that the body alone must never be believed."""
    return f"{transmission_id}|{transmission_time}|{webhook_id}|{zlib.crc32(body)}".encode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Certificate:
    """A certificate that signs webhooks; ``proven`` when it chains to a CA, or PayPal itself vouched for it."""

    key: RSAPublicKey
    good_until: datetime
    proven: bool


class PayPalSignatures:
    """Verifies webhooks; ``paypal`` is asked about a signature where its certificate alone is no proof."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient, paypal: PayPalClient, webhook_id: str) -> None:
        self._settings = settings
        self._client = client
        self._paypal = paypal
        self._webhook_id = webhook_id
        self._certificates: dict[str, _Certificate] = {}

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises SignatureInvalid for what PayPal did not sign."""
        said = {
            name: headers.get(f"paypal-{name.replace('_', '-')}", "")
            for name in ("auth_algo", "cert_url", "transmission_id", "transmission_sig", "transmission_time")
        }
        if said["auth_algo"] != "SHA256withRSA" or not (said["transmission_id"] and said["transmission_time"]):
            raise SignatureInvalid("PayPal's signature headers are missing or malformed.")
        try:
            signature = base64.b64decode(said["transmission_sig"], validate=True)
        except ValueError:
            raise SignatureInvalid("PayPal's signature is not base64.") from None
        url = said["cert_url"]
        certificate = await self._certificate(url)
        message = signed_message(said["transmission_id"], said["transmission_time"], self._webhook_id, body)
        try:
            certificate.key.verify(signature, message, PKCS1v15(), SHA256())
        except InvalidSignature:
            raise SignatureInvalid("PayPal's signature does not match: check PGCHECKOUT_PAYPAL_WEBHOOK_ID.") from None
        if not certificate.proven:
            await self._ask_about_signature(said, body)
            self._certificates[url] = replace(certificate, proven=True)

    async def _ask_about_signature(self, said: Mapping[str, str], body: bytes) -> None:
        """``POST /v1/notifications/verify-webhook-signature`` for the first message under a certificate whose CA we
        cannot see: PayPal may serve it without the intermediate one that issued it."""
        try:
            json.loads(body)
        except MALFORMED:
            raise SignatureInvalid("PayPal's signature covers no JSON.") from None
        asked = json.dumps({**said, "webhook_id": self._webhook_id}).encode()
        # the event must be shown byte for byte
        content = asked[:-1] + b', "webhook_event": ' + body + b"}"
        answer = await self._paypal.call("POST", "/v1/notifications/verify-webhook-signature", content)
        if answer.get("verification_status") != "SUCCESS":
            raise SignatureInvalid("PayPal does not know this signature: check PGCHECKOUT_PAYPAL_WEBHOOK_ID.")

    async def _certificate(self, url: str) -> _Certificate:
        known = self._certificates.get(url)
        if known and known.good_until > datetime.now(UTC):
            return known
        self._check_certificate_url(url)
        try:
            chain = x509.load_pem_x509_certificates(await self._fetch_certificate(url))
            certificate = self._examine(chain[0], chain[1:])
        except _CERTIFICATE_TROUBLE as trouble:
            raise SignatureInvalid(f"PayPal's certificate cannot be used ({type(trouble).__name__}).") from None
        if len(self._certificates) > 20:
            self._certificates.clear()
        self._certificates[url] = certificate
        return certificate

    def _check_certificate_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            place = (parts.scheme, parts.netloc)
        except ValueError:
            raise SignatureInvalid("PAYPAL-CERT-URL is not a URL.") from None
        allowed = {("https", host) for host in CERTIFICATE_HOSTS}
        if self._settings.paypal_api_url and self._settings.environment == "development":
            ours = urlsplit(self._paypal.api)
            allowed.add((ours.scheme, ours.netloc))
        plain = not (parts.query or parts.fragment) and url == parts.geturl()
        if place not in allowed or not CERTIFICATE_PATH.fullmatch(parts.path) or not plain:
            raise SignatureInvalid("PAYPAL-CERT-URL is not PayPal's.")

    async def _fetch_certificate(self, url: str) -> bytes:
        content = b""
        try:
            request = self._client.stream("GET", url, headers={"Accept-Encoding": "identity"}, follow_redirects=False)
            async with request as response:
                if is_temporary(response):
                    raise ProviderUnavailable(f"PayPal answered HTTP {response.status_code}.", "Try again later.")
                if response.status_code != 200:
                    raise SignatureInvalid(f"PayPal has no such certificate (HTTP {response.status_code}).")
                async for part in response.aiter_raw():
                    content += part
                    if len(content) > LARGEST_CERTIFICATE:
                        raise SignatureInvalid("PayPal's certificate is too large.")
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise ProviderUnavailable(
                f"PayPal's certificate cannot be fetched ({type(error).__name__}).", "Try again later."
            ) from None
        return content

    def _examine(self, leaf: x509.Certificate, others: list[x509.Certificate]) -> _Certificate:
        now = datetime.now(UTC)
        if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
            raise SignatureInvalid("PayPal's certificate is not valid now.")
        key, name = leaf.public_key(), _paypal_name(leaf)
        if not isinstance(key, RSAPublicKey) or name is None:
            raise SignatureInvalid("The certificate is not PayPal's.")
        try:
            # demands of the leaf a subjectAltName with that name and, where its uses are listed, serverAuth
            verifier = PolicyBuilder().store(self._authorities).time(now).build_server_verifier(x509.DNSName(name))
            verifier.verify(leaf, others)
            proven = True
        except VerificationError:
            if self._settings.paypal_ca_file:
                raise SignatureInvalid("PayPal's certificate is not of the CA in PGCHECKOUT_PAYPAL_CA_FILE.") from None
            proven = False
        return _Certificate(key, leaf.not_valid_after_utc, proven)

    @cached_property
    def _authorities(self) -> Store:
        end = b"-----END CERTIFICATE-----"
        *pems, _ = (self._settings.paypal_ca_file or Path(certifi.where())).read_bytes().split(end)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            for pem in pems:
                # one at a time: an old root that cryptography does not take must not take the others with it
                with suppress(*_CERTIFICATE_TROUBLE):
                    found.append(x509.load_pem_x509_certificate(pem + end))
        return Store(found)


def _paypal_name(certificate: x509.Certificate) -> str | None:
    names = [str(part.value) for part in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    try:
        other = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += other.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        pass
    return next((name.lower() for name in names if name.lower().endswith(".paypal.com")), None)
