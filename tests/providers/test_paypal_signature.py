"""Webhook signatures: vectors, certificates good and bad, and everything that is no signature.

Source: developer.paypal.com/api/rest/webhooks, "Message integrity".
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InvalidRequest, ProviderUnavailable, SignatureInvalid
from bridge.providers.paypal import PayPal
from bridge.providers.paypal_signature import signed_message
from bridge.simulators.base import Delivery, Fault
from bridge.simulators.paypal import SIGNER, PayPalSimulator, new_identity
from bridge.values import Event
from tests.providers.bench import AdapterBench

VECTORS = json.loads((Path(__file__).parent / "vectors" / "paypal.json").read_text())
BODY = b'{"id": "WH-1", "event_type": "CATALOG.PRODUCT.CREATED", "resource": {}}'
Bench = AdapterBench[PayPal]
# of the certificate, before anything is fetched
FIELDS = ("transmission-id", "transmission-time", "transmission-sig", "cert-url", "auth-algo")


@pytest.fixture(scope="module")
def server() -> Iterator[PayPalSimulator]:
    with PayPalSimulator() as server:
        yield server


@pytest.fixture
def paypal(server: PayPalSimulator) -> PayPalSimulator:
    server.faults.clear()
    server.received.clear()
    server.served = {"CERT-1": server.signer.pem}
    return server


@pytest.fixture
def bench(paypal: PayPalSimulator) -> Iterator[Bench]:
    """An adapter that has seen no certificate yet."""
    with AdapterBench(PayPal, paypal.settings()) as bench:
        yield bench


@pytest.fixture
def public_bench(paypal: PayPalSimulator) -> Iterator[Bench]:
    """One that trusts public CAs, to which the simulator's certificate does not lead."""
    with AdapterBench(PayPal, paypal.settings(), paypal_ca_file=None) as bench:
        yield bench


def read(bench: Bench, delivery: Delivery) -> Event:
    return bench.run(bench.adapter.read_event(*delivery))


def accepts(bench: Bench, headers: Mapping[str, str], body: bytes = BODY) -> bool:
    """Whether we accept; any exception but SignatureInvalid fails the test."""
    try:
        read(bench, (dict(headers), body))
    except SignatureInvalid:
        return False
    return True


def paths(paypal: PayPalSimulator) -> list[str]:
    return [request.path.rsplit("/", 1)[-1] for request in paypal.received]


# the message


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["name"])
def test_a_vector_is_judged_as_recorded(vector: dict[str, Any]) -> None:
    headers, body = vector["headers"], base64.b64decode(vector["body_b64"])
    message = signed_message(
        headers["PAYPAL-TRANSMISSION-ID"], headers["PAYPAL-TRANSMISSION-TIME"], vector["webhook_id_configured"], body
    )
    key = x509.load_pem_x509_certificate(VECTORS["certificate_pem"].encode()).public_key()
    assert isinstance(key, RSAPublicKey)
    try:
        key.verify(base64.b64decode(headers["PAYPAL-TRANSMISSION-SIG"]), message, PKCS1v15(), SHA256())
        valid = True
    except InvalidSignature:
        valid = False
    assert valid is vector["expect_valid"]
    if valid:
        assert message.decode() == vector["signed_message"]


def test_the_vectors_include_a_forgery() -> None:
    assert {vector["expect_valid"] for vector in VECTORS["messages"]} == {True, False}


@given(body=st.binary(max_size=300))
def test_the_checksum_is_unsigned_and_decimal(body: bytes) -> None:
    *rest, checksum = signed_message("id", "time", "WH", body).decode().split("|")
    assert rest == ["id", "time", "WH"]
    assert (int(checksum), checksum.isdigit()) == (zlib.crc32(body) & 0xFFFFFFFF, True)


# genuine and not


def test_a_genuine_webhook_is_read(paypal: PayPalSimulator, bench: Bench) -> None:
    event = read(bench, (paypal.sign(BODY), BODY))
    assert (event.id, event.type) == ("WH-1", "CATALOG.PRODUCT.CREATED")
    assert paths(paypal) == ["CERT-1"]


def test_header_names_arrive_in_any_case_through_the_bridge_and_values_verbatim(
    paypal: PayPalSimulator, bench: Bench
) -> None:
    headers = paypal.sign(BODY)
    assert not accepts(bench, headers | {"paypal-transmission-time": headers["paypal-transmission-time"] + " "})
    assert not accepts(bench, headers | {"paypal-transmission-id": headers["paypal-transmission-id"].upper() + "0"})
    assert accepts(bench, headers)


def test_a_webhook_signed_by_another_key_is_refused(paypal: PayPalSimulator, bench: Bench) -> None:
    headers, body = paypal.forged((paypal.sign(BODY), BODY))
    assert not accepts(bench, headers, body)


def test_a_webhook_of_another_webhook_id_is_refused(paypal: PayPalSimulator) -> None:
    with AdapterBench(PayPal, paypal.settings(), paypal_webhook_id="WEBHOOK_ID") as bench:
        assert not accepts(bench, paypal.sign(BODY))


def test_one_changed_byte_of_the_body_is_noticed(paypal: PayPalSimulator, bench: Bench) -> None:
    headers = paypal.sign(BODY)

    @given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
    def judge(place: int, difference: int) -> None:
        changed = bytearray(BODY)
        changed[place] ^= difference
        assert not accepts(bench, headers, bytes(changed))

    judge()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, "", "x", "é", "\udcff", "a|b", "0" * 10_000], ids=ascii)
def test_a_missing_or_malformed_header_is_an_invalid_signature(
    field: str, value: str | None, paypal: PayPalSimulator, bench: Bench
) -> None:
    headers = paypal.sign(BODY) | {f"paypal-{field}": value or ""}
    if value is None:
        del headers[f"paypal-{field}"]
    assert not accepts(bench, headers)


@pytest.mark.parametrize("algorithm", ["SHA1withRSA", "sha256withrsa", "SHA256withECDSA", "none", "SHA512withRSA"])
def test_no_other_algorithm_is_accepted(algorithm: str, paypal: PayPalSimulator, bench: Bench) -> None:
    assert not accepts(bench, paypal.sign(BODY) | {"paypal-auth-algo": algorithm})
    assert paypal.received == []


def test_any_text_in_any_header_is_an_invalid_signature_and_nothing_worse(
    paypal: PayPalSimulator, bench: Bench
) -> None:
    good = paypal.sign(BODY)
    values = st.one_of(
        st.text(max_size=60),
        st.sampled_from(["SHA256withRSA", f"{paypal.url}/v1/notifications/certs/CERT-2", "AAAA", *good.values()]),
    )
    names = st.sampled_from([f"paypal-{field}" for field in FIELDS])

    @given(st.dictionaries(names, values), st.binary(max_size=100))
    def judge(changes: dict[str, str], body: bytes) -> None:
        assert accepts(bench, good | changes, body) is (body == BODY and good | changes == good)

    judge()


def test_a_genuine_body_of_any_shape_is_an_event_or_an_invalid_request(paypal: PayPalSimulator, bench: Bench) -> None:
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
    envelopes = st.fixed_dictionaries({}, optional={"id": values, "event_type": values, "resource": values})

    @given(
        st.one_of(
            st.binary(max_size=60), envelopes.map(json.dumps).map(str.encode), values.map(json.dumps).map(str.encode)
        )
    )
    def judge(body: bytes) -> None:
        try:
            event = read(bench, (paypal.sign(body), body))
        except InvalidRequest:
            return
        assert isinstance(event.payload, dict)
        assert 0 < len(event.id) <= 255

    judge()


def test_what_is_stored_names_nobody(paypal: PayPalSimulator, bench: Bench) -> None:
    person = {"name": {"given_name": "Jane"}, "email_address": "jane@example.test"}
    resource = {
        "payer": person, "payment_source": {"paypal": person},
        "purchase_units": [{"shipping": person, "payee": person}],
        "disputed_transactions": [{"buyer": person, "seller": person}], "messages": [{"content": "jane@example.test"}],
        "note_to_payer": "Jane", "id": "5O190127TN364715T",
    }  # fmt: skip
    body = json.dumps({"id": "WH-1", "event_type": "X", "resource": resource}).encode()
    payload = str(read(bench, (paypal.sign(body), body)).payload)
    assert "jane" not in payload.lower()
    assert "5O190127TN364715T" in payload


# where certificates come from


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "https://", "https://[", "https://example.test/v1/notifications/certs/CERT-1",
        "http://api.paypal.com/v1/notifications/certs/CERT-1", "https://api.paypal.com/v1/notifications/certs/",
        "https://api.paypal.com.example.test/v1/notifications/certs/CERT-1",
        "https://api.paypal.com@example.test/v1/notifications/certs/CERT-1",
        "https://user:pass@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-1",
        "https://evil.paypal.com/v1/notifications/certs/CERT-1", "https://paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/../../checkout", "https://api.paypal.com/v1/oauth2/token",
        "https://api.paypal.com/v1/notifications/certs/..", "https://api.paypal.com/x/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1?next=https://example.test",
        "https://api.paypal.com/v1/notifications/certs/CERT-1#x", "ftp://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT%2F1", "//api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1\n", " https://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://API.PAYPAL.COM/v1/notifications/certs/CERT-1", "https://api.paypal.com\\@example.test/v1/notifications/certs/C",
    ],
)  # fmt: skip
def test_a_certificate_is_fetched_from_nowhere_but_paypal(url: str, paypal: PayPalSimulator, bench: Bench) -> None:
    with pytest.raises(SignatureInvalid, match="PAYPAL-CERT-URL"):
        read(bench, (paypal.sign(BODY) | {"paypal-cert-url": url}, BODY))
    assert paypal.received == []


@pytest.mark.parametrize("host", ["api", "api-m", "api.sandbox", "api-m.sandbox"])
def test_the_four_hosts_of_paypal_are_known(host: str, paypal: PayPalSimulator, bench: Bench) -> None:
    url = f"https://{host}.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1"
    bench.adapter._signatures._check_certificate_url(url)


def test_in_production_another_api_serves_no_certificates(paypal: PayPalSimulator) -> None:
    with AdapterBench(PayPal, paypal.settings(), environment="production") as bench:
        with pytest.raises(SignatureInvalid, match="PAYPAL-CERT-URL"):
            read(bench, (paypal.sign(BODY), BODY))
        assert paypal.received == []


def test_a_certificate_is_fetched_once(paypal: PayPalSimulator, bench: Bench) -> None:
    assert all(accepts(bench, paypal.sign(BODY)) for _ in range(3))
    assert paths(paypal) == ["CERT-1"]


def test_a_cached_certificate_is_used_until_it_expires(paypal: PayPalSimulator, bench: Bench) -> None:
    assert accepts(bench, paypal.sign(BODY))
    ((url, known),) = bench.adapter._signatures._certificates.items()
    assert known.good_until == paypal.signer.certificate.not_valid_after_utc
    bench.adapter._signatures._certificates[url] = replace(known, good_until=known.good_until.replace(year=2020))
    assert accepts(bench, paypal.sign(BODY))
    assert paths(paypal) == ["CERT-1"] * 2


def test_a_new_certificate_has_a_new_address(paypal: PayPalSimulator, bench: Bench) -> None:
    other = new_identity(SIGNER, paypal.authority, key=2)
    paypal.served["CERT-2"] = other.pem
    assert accepts(bench, paypal.sign(BODY))
    assert accepts(bench, paypal.sign(BODY, by=other, certificate="CERT-2"))
    assert not accepts(bench, paypal.sign(BODY, certificate="CERT-2"))


def test_the_cache_does_not_grow_for_ever(paypal: PayPalSimulator, bench: Bench) -> None:
    for number in range(30):
        paypal.served[f"CERT-{number}"] = paypal.signer.pem
        assert accepts(bench, paypal.sign(BODY, certificate=f"CERT-{number}"))
    assert len(bench.adapter._signatures._certificates) <= 21


@pytest.mark.parametrize("status", [301, 302, 307, 400, 403, 404])
def test_no_certificate_or_one_elsewhere_is_an_invalid_signature(
    status: int, paypal: PayPalSimulator, bench: Bench
) -> None:
    elsewhere = {"Location": f"{paypal.url}/v1/notifications/certs/CERT-1"}
    paypal.faults.append(Fault(status=status, headers=elsewhere))
    assert not accepts(bench, paypal.sign(BODY))
    assert len(paypal.received) == 1


@pytest.mark.parametrize(
    "fault",
    [Fault(status=503), Fault(status=429), Fault(lost=True), Fault(cut=True)],
    ids=["503", "429", "lost", "cut"],
)
def test_trouble_while_fetching_asks_for_another_delivery(fault: Fault, paypal: PayPalSimulator, bench: Bench) -> None:
    paypal.faults.append(fault)
    headers = paypal.sign(BODY)
    with pytest.raises(ProviderUnavailable):
        read(bench, (headers, BODY))
    assert accepts(bench, headers)


def test_a_huge_certificate_is_not_read_to_its_end(paypal: PayPalSimulator, bench: Bench) -> None:
    paypal.served["CERT-1"] = paypal.signer.pem + b"\n" * 70_000
    with pytest.raises(SignatureInvalid, match="too large"):
        read(bench, (paypal.sign(BODY), BODY))


# which certificates are good


BAD = (
    "garbage",
    "empty",
    "of another CA",
    "expired",
    "not yet",
    "another name",
    "a similar name",
    "no RSA key",
    "a CA",
)


def bad_certificate(kind: str, paypal: PayPalSimulator) -> bytes:
    ca = paypal.authority
    if kind in ("garbage", "empty"):
        return b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" if kind == "garbage" else b""
    if kind == "no RSA key":
        return _with_elliptic_key(paypal)
    certificates = {
        "of another CA": lambda: new_identity(SIGNER, new_identity("A CA of these tests", key=2), key=1),
        "expired": lambda: new_identity(SIGNER, ca, key=1, days=(-3, -1)),
        "not yet": lambda: new_identity(SIGNER, ca, key=1, days=(1, 3)),
        "another name": lambda: new_identity("messages.example.test", ca, key=1),
        "a similar name": lambda: new_identity("messages.notpaypal.com", ca, key=1),
        "a CA": lambda: new_identity(SIGNER, key=1),
        "without its name as a DNS name": lambda: new_identity(SIGNER, ca, key=1, plain=True),
    }
    return certificates[kind]().pem


def _with_elliptic_key(paypal: PayPalSimulator) -> bytes:
    old = paypal.signer.certificate
    builder = (
        x509.CertificateBuilder(old.issuer, old.subject, ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(1)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    return builder.sign(paypal.authority.key, SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("kind", BAD)
def test_a_certificate_that_is_not_good_signs_nothing(kind: str, paypal: PayPalSimulator, bench: Bench) -> None:
    paypal.served["CERT-1"] = bad_certificate(kind, paypal)
    assert not accepts(bench, paypal.sign(BODY))
    paypal.served["CERT-1"] = paypal.signer.pem
    assert accepts(bench, paypal.sign(BODY))


def test_whatever_is_served_as_a_certificate_no_other_error_comes(paypal: PayPalSimulator, bench: Bench) -> None:
    pem = paypal.signer.pem

    @given(cut=st.integers(0, len(pem)), garbage=st.binary(max_size=50))
    def judge(cut: int, garbage: bytes) -> None:
        paypal.served["CERT-1"] = pem[:cut] + garbage + pem[cut:]
        bench.adapter._signatures._certificates.clear()
        accepts(bench, paypal.sign(BODY))

    judge()


def test_a_ca_that_cannot_be_read_does_not_take_the_others_with_it(paypal: PayPalSimulator, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(bad_certificate("garbage", paypal) + paypal.authority.pem + b"# end\n")
    with AdapterBench(PayPal, paypal.settings(), paypal_ca_file=str(bundle)) as bench:
        assert accepts(bench, paypal.sign(BODY))


def test_a_served_chain_is_followed_to_its_ca(paypal: PayPalSimulator, bench: Bench) -> None:
    paypal.served["CERT-1"] = paypal.signer.pem + paypal.authority.pem
    assert accepts(bench, paypal.sign(BODY))
    assert paths(paypal) == ["CERT-1"]


# a certificate whose CA cannot be seen


def test_paypal_is_asked_once_about_a_certificate_whose_ca_is_unknown(
    paypal: PayPalSimulator, public_bench: Bench
) -> None:
    assert all(accepts(public_bench, paypal.sign(BODY)) for _ in range(3))
    assert paths(paypal) == ["CERT-1", "token", "verify-webhook-signature"]
    asked = paypal.received[-1]
    # byte for byte: written anew, it would have another checksum
    assert b'"webhook_event": ' + BODY + b"}" in asked.body
    assert json.loads(asked.body)["webhook_id"] == paypal.webhook_id


def test_a_certificate_that_paypal_does_not_vouch_for_signs_nothing(
    paypal: PayPalSimulator, public_bench: Bench
) -> None:
    stranger = new_identity(SIGNER, key=2)
    paypal.served["CERT-1"] = stranger.pem
    for _ in range(2):
        with pytest.raises(SignatureInvalid, match="does not know"):
            read(public_bench, (paypal.sign(BODY, by=stranger), BODY))
    assert paths(paypal).count("verify-webhook-signature") == 2


def test_paypal_can_vouch_for_a_certificate_that_the_verifier_does_not_take(
    paypal: PayPalSimulator, public_bench: Bench
) -> None:
    paypal.served["CERT-1"] = bad_certificate("without its name as a DNS name", paypal)
    assert accepts(public_bench, paypal.sign(BODY))
    assert paths(paypal)[-1] == "verify-webhook-signature"


@pytest.mark.parametrize("kind", ["expired", "not yet", "another name", "a similar name", "no RSA key"])
def test_a_certificate_that_is_not_paypals_is_not_even_asked_about(
    kind: str, paypal: PayPalSimulator, public_bench: Bench
) -> None:
    paypal.served["CERT-1"] = bad_certificate(kind, paypal)
    assert not accepts(public_bench, paypal.sign(BODY))
    assert paths(paypal) == ["CERT-1"]


def test_paypal_is_not_asked_about_what_its_certificate_did_not_sign(
    paypal: PayPalSimulator, public_bench: Bench
) -> None:
    headers, body = paypal.forged((paypal.sign(BODY), BODY))
    assert not accepts(public_bench, headers, body)
    assert paths(paypal) == ["CERT-1"]


@pytest.mark.parametrize("body", [b"", b"no JSON", b'{}, "verification_status": "SUCCESS"', b"\xff"])
def test_paypal_is_asked_about_json_only(body: bytes, paypal: PayPalSimulator, public_bench: Bench) -> None:
    assert not accepts(public_bench, paypal.sign(body), body)
    assert paths(paypal) == ["CERT-1"]


def test_when_paypal_cannot_be_asked_the_delivery_comes_again(paypal: PayPalSimulator, public_bench: Bench) -> None:
    paypal.faults.extend([Fault(), Fault(), *[Fault(status=503)] * 3])
    headers = paypal.sign(BODY)
    with pytest.raises(ProviderUnavailable):
        read(public_bench, (headers, BODY))
    assert accepts(public_bench, headers)
