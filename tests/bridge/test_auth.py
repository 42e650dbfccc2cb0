"""Whose token is it? All kinds of keys that Supabase projects have, and the ways to cheat with them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.responses import Response

from bridge import auth
from bridge.auth import Tokens, User
from bridge.errors import NotSignedIn, ProviderUnavailable
from bridge.settings import load_settings
from tests.support.key_server import KeyServer, key_server, public_key

T = TypeVar("T")

SECRET = "a-legacy-secret-of-more-than-32-bytes"
USER = uuid.uuid4()
CURVE_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)


class Door:
    """Tokens are checked here, by a bridge with these settings."""

    def __init__(self, **settings: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(timeout=5.0)
        self._tokens = Tokens(load_settings(_env_file=None, **settings), self._client)

    def check(self, token: str, scheme: str = "Bearer") -> User:
        return self.header(f"{scheme} {token}")

    def header(self, value: str | None) -> User:
        return self.run(self._tokens.user(value))

    def check_at_once(self, tokens: list[str]) -> list[User]:
        async def together() -> list[User]:
            return await asyncio.gather(*(self._tokens.user(f"Bearer {token}") for token in tokens))

        return self.run(together())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self._client.aclose())
        self._runner.close()


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    with key_server() as server:
        server.keys = [public_key(CURVE_KEY, "curve"), public_key(RSA_KEY, "rsa")]
        yield server


@pytest.fixture
def door(keys: KeyServer) -> Iterator[Door]:
    """A project in the middle of its move from the legacy secret to signing keys."""
    door = Door(jwt_secret=SECRET, supabase_url=keys.url)
    yield door
    door.close()


@pytest.fixture
def legacy_door() -> Iterator[Door]:
    door = Door(jwt_secret=SECRET)
    yield door
    door.close()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {
        "sub": str(USER), "role": "authenticated", "aud": "authenticated", "iat": now, "exp": now + 600,
        "email": "ada@example.test", **changes,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value is not ...}


def signed(algorithm: str = "HS256", kid: str | None = None, *, key: Any = None, **changes: Any) -> str:
    """A token; a claim of ``...`` is left out."""
    keys: dict[str, Any] = {"HS256": SECRET, "ES256": CURVE_KEY, "RS256": RSA_KEY}
    return jwt.encode(claims(**changes), key or keys[algorithm], algorithm, headers={"kid": kid} if kid else None)


def by_hand(header: dict[str, Any], said: dict[str, Any], secret: bytes = b"") -> str:
    """What no library would sign."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = part(json.dumps(header).encode()) + "." + part(json.dumps(said).encode())
    return text + "." + (part(hmac.new(secret, text.encode(), hashlib.sha256).digest()) if secret else "")


@pytest.mark.parametrize(("algorithm", "kid"), [("HS256", None), ("ES256", "curve"), ("RS256", "rsa")])
def test_tokens_of_every_kind_of_key_are_accepted(door: Door, algorithm: str, kid: str | None) -> None:
    assert door.check(signed(algorithm, kid)) == User(USER, "ada@example.test")


def test_the_scheme_may_be_written_in_any_case(legacy_door: Door) -> None:
    assert legacy_door.check(signed(), scheme="bEARER").id == USER


def test_a_user_need_not_have_an_email(legacy_door: Door) -> None:
    assert legacy_door.check(signed(email=...)) == User(USER, None)
    assert legacy_door.check(signed(email="")) == User(USER, None)


def test_one_of_several_audiences_will_do(legacy_door: Door) -> None:
    assert legacy_door.check(signed(aud=["other", "authenticated"])).id == USER


def test_an_expired_token_is_told_apart(legacy_door: Door) -> None:
    with pytest.raises(NotSignedIn, match="has expired"):
        legacy_door.check(signed(exp=int(time.time()) - 60))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...},
        {"exp": "soon"},
        {"nbf": int(time.time()) + 600},
        {"aud": "somebody else"},
        {"aud": ...},
        {"aud": []},
        {"sub": ...},
        {"sub": "42"},
        {"sub": ""},
        {"role": ...},
        {"role": "anon", "sub": str(USER)},
        {"role": "service_role"},
        {"role": ["authenticated"]},
        {"key": "another-secret-of-more-than-32-bytes-too"},
    ],
    ids=str,
)
def test_tokens_that_are_not_good_are_refused(legacy_door: Door, changes: dict[str, Any]) -> None:
    with pytest.raises(NotSignedIn, match="is not valid"):
        legacy_door.check(signed(**changes))


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", "Bearer\t", "Basic YTpi", "Bearer a.b.c", "Bearer ...", "Bearer é.é.é",
        "Bearer " + "x" * 9000, "token",
    ],
)  # fmt: skip
def test_a_header_without_a_token_is_nobody(legacy_door: Door, header: str | None) -> None:
    with pytest.raises(NotSignedIn):
        legacy_door.header(header)


def test_unsigned_tokens_are_refused(door: Door) -> None:
    names: list[Any] = ["none", "None", "NONE", "nOnE", "", None, 7, ["HS256"], {}]
    for algorithm in names:
        with pytest.raises(NotSignedIn):
            door.check(by_hand({"alg": algorithm, "typ": "JWT"}, claims()))


def test_a_public_key_is_never_a_shared_secret(door: Door, keys: KeyServer) -> None:
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), json.dumps(keys.keys[1]).encode()):
        for kid in ("rsa", "curve"):
            with pytest.raises(NotSignedIn):
                door.check(by_hand({"alg": "HS256", "typ": "JWT", "kid": kid}, claims(), secret))


def test_a_key_serves_its_own_algorithm_only(door: Door) -> None:
    for algorithm, kid in (("ES256", "rsa"), ("RS256", "curve")):
        with pytest.raises(NotSignedIn):
            door.check(signed(algorithm, kid))


def test_another_key_under_a_known_name_is_refused(door: Door) -> None:
    with pytest.raises(NotSignedIn):
        door.check(signed("ES256", "curve", key=ec.generate_private_key(ec.SECP256R1())))


def test_other_algorithms_are_refused(door: Door) -> None:
    for token in (
        signed("HS512", key=SECRET * 2),
        signed("RS512", "rsa", key=RSA_KEY),
        signed("ES384", "curve", key=ec.generate_private_key(ec.SECP384R1())),
    ):
        with pytest.raises(NotSignedIn):
            door.check(token)


def test_a_kind_of_key_that_is_not_set_up_is_refused(legacy_door: Door, keys: KeyServer) -> None:
    with pytest.raises(NotSignedIn):
        legacy_door.check(signed("ES256", "curve"))
    only_keys = Door(jwks_url=keys.url + "/auth/v1/.well-known/jwks.json")
    with pytest.raises(NotSignedIn):
        only_keys.check(signed("HS256"))
    assert only_keys.check(signed("ES256", "curve")).id == USER
    only_keys.close()


def test_keys_are_fetched_once(door: Door, keys: KeyServer) -> None:
    for _ in range(5):
        door.check(signed("ES256", "curve"))
        door.check(signed("RS256", "rsa"))
    assert keys.asked == 1


def test_an_unknown_key_does_not_make_us_ask_all_the_time(door: Door, keys: KeyServer) -> None:
    door.check(signed("ES256", "curve"))
    for number in range(5):
        with pytest.raises(NotSignedIn):
            door.check(signed("ES256", f"key-{number}"))
        with pytest.raises(NotSignedIn):
            door.check(signed("ES256"))
    assert keys.asked == 1


def test_a_rotated_key_is_fetched_once_by_many_callers(
    door: Door, keys: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.check(signed("ES256", "curve"))
    monkeypatch.setattr(auth, "_ASK_AGAIN_AFTER", 0.2)
    time.sleep(0.2)
    new = ec.generate_private_key(ec.SECP256R1())
    keys.keys = [public_key(new, "new"), *keys.keys]
    users = door.check_at_once([signed("ES256", "new", key=new)] * 10 + [signed("ES256", "curve")] * 10)
    assert {user.id for user in users} == {USER}
    assert keys.asked == 2


def test_one_strange_key_does_not_hide_the_others(door: Door, keys: KeyServer) -> None:
    keys.keys = [
        {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "strange"},
        {"kty": "EC", "crv": "P-256", "kid": "broken"},
        {"kty": "oct", "k": "AAAA", "kid": "curve-oct"},
        *keys.keys,
    ]
    assert door.check(signed("ES256", "curve")).id == USER


ODD_ANSWERS = [
    Response(status_code=500),
    Response("<html>", media_type="text/html"),
    Response("[]", media_type="application/json"),
    Response("{}", media_type="application/json"),
    Response('{"keys": null}', media_type="application/json"),
    Response(status_code=302, headers={"location": "http://127.0.0.1:1/"}),
]


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=lambda answer: f"{answer.status_code} {answer.body.decode()}")
def test_without_keys_the_answer_is_to_try_again(door: Door, keys: KeyServer, answer: Response) -> None:
    keys.answer = answer
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            door.check(signed("ES256", "curve"))
    assert keys.asked == 1
    assert door.check(signed("HS256")).id == USER


def test_a_key_server_that_is_away_can_be_asked_later(
    door: Door, keys: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.answer = Response(status_code=503)
    with pytest.raises(ProviderUnavailable):
        door.check(signed("ES256", "curve"))
    monkeypatch.setattr(auth, "_ASK_AGAIN_AFTER", 0.0)
    keys.answer = None
    assert door.check(signed("ES256", "curve")).id == USER


def test_known_keys_are_good_enough_while_the_server_is_away(
    door: Door, keys: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.check(signed("ES256", "curve"))
    monkeypatch.setattr(auth, "_KEYS_ARE_FRESH_FOR", 0.0)
    monkeypatch.setattr(auth, "_ASK_AGAIN_AFTER", 0.0)
    keys.answer = Response(status_code=503)
    assert door.check(signed("ES256", "curve")).id == USER
    assert keys.asked == 2


def test_a_project_without_signing_keys_refuses_their_tokens(door: Door, keys: KeyServer) -> None:
    keys.keys = []
    with pytest.raises(NotSignedIn):
        door.check(signed("ES256", "curve"))


def test_a_key_that_was_withdrawn_opens_no_door(door: Door, keys: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    door.check(signed("RS256", "rsa"))
    keys.keys = keys.keys[:1]
    monkeypatch.setattr(auth, "_KEYS_ARE_FRESH_FOR", 0.0)
    monkeypatch.setattr(auth, "_ASK_AGAIN_AFTER", 0.0)
    with pytest.raises(NotSignedIn):
        door.check(signed("RS256", "rsa"))
