import json
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey

from chassis.config import SettingsError
from chassis.errors import Fault, FaultKind
from chassis.identity import AUDIENCE, ServiceIdentity, Verifier, current_caller, new_key_pair

ORDERS_PEM, ORDERS_JWK = new_key_pair("orders")
USERS_PEM, USERS_JWK = new_key_pair("users")


@pytest.fixture
def verifier() -> Verifier:
    return Verifier({"keys": [ORDERS_JWK, USERS_JWK]})


def signed(pem: str, *, kid: str = "orders", **claims: Any) -> str:
    now = int(time.time())
    content = {"iss": "orders", "aud": AUDIENCE, "iat": now, "exp": now + 60} | claims
    content = {name: value for name, value in content.items() if value is not None}
    return jwt.encode({"alg": "Ed25519", "kid": kid}, content, OKPKey.import_key(pem), algorithms=["Ed25519"])


def test_a_service_is_known_by_its_token(verifier: Verifier) -> None:
    token = ServiceIdentity("orders", ORDERS_PEM).token()
    assert verifier.verify(token) == "orders"
    assert verifier.verify(token) == "orders"  # from the cache


def test_a_token_is_used_again_until_half_of_its_life() -> None:
    identity = ServiceIdentity("orders", ORDERS_PEM)
    first = identity.token()
    assert identity.token() == first
    identity._renew_at = 0.0
    assert identity.token()
    assert identity._renew_at > time.time()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "garbage",
        "a.b.c",
        "\u00e9.\u00e9.\u00e9",
        signed(USERS_PEM),
        signed(USERS_PEM, kid="users"),
        signed(ORDERS_PEM, iss="users"),
        signed(ORDERS_PEM, kid="nobody"),
        signed(ORDERS_PEM, aud="another"),
        signed(ORDERS_PEM, aud=None),
        signed(ORDERS_PEM, exp=1),
        signed(ORDERS_PEM, exp=None),
        signed(ORDERS_PEM, exp="soon"),
        signed(ORDERS_PEM)[:-8],
        "eyJhbGciOiJub25lIiwia2lkIjoib3JkZXJzIn0.eyJpc3MiOiJvcmRlcnMiLCJhdWQiOiJzYWdhY2l0eSJ9.",
    ],
)
def test_a_token_that_is_not_the_services_own_is_refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(Fault) as caught:
        verifier.verify(token)
    assert caught.value.kind is FaultKind.UNAUTHENTICATED


def test_a_cached_token_expires_all_the_same(verifier: Verifier) -> None:
    token = signed(ORDERS_PEM, exp=1)
    verifier._verified[token] = ("orders", 1.0)
    with pytest.raises(Fault):
        verifier.verify(token)


def test_the_public_half_holds_no_private_part() -> None:
    assert "d" not in ORDERS_JWK


def test_there_is_no_caller_outside_of_a_call() -> None:
    with pytest.raises(LookupError):
        current_caller()


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"keys": 3}', json.dumps({"keys": [{}]})])
def test_a_file_that_is_no_key_set_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"keys\.json"):
        Verifier.read(file)


def test_a_file_that_is_no_private_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "orders.pem"
    file.write_text("not a key")
    with pytest.raises(SettingsError, match=r"orders\.pem"):
        ServiceIdentity.read("orders", file)
