import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet, OKPKey, RSAKey

from chassis.ids import new_id
from services.users import credentials
from services.users.credentials import AccessTokens, Passwords
from services.users.domain import BusyError, Role, User, UserState

NOW = datetime(2026, 3, 1, 12, 0, 0, 987654, tzinfo=UTC)
USER = User(
    id=UUID("01890000-0000-7000-8000-000000000001"),
    email="ada@example.com",
    display_name="Ada",
    role=Role.SUPPORT,
    state=UserState.ACTIVE,
    create_time=NOW,
)


class StoppedClock:
    def now(self) -> datetime:
        return NOW


def private_pem() -> str:
    return OKPKey.generate_key("Ed25519").as_pem(private=True).decode()


def new_tokens() -> AccessTokens:
    return AccessTokens(private_pem(), clock=StoppedClock(), new_id=new_id)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


async def test_a_password_matches_its_own_hash_only(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert await passwords.verify(stored, "correct horse")
    assert not await passwords.verify(stored, "correct horsf")


async def test_a_hash_is_argon2id_with_the_agreed_cost(passwords: Passwords) -> None:
    assert (await passwords.hash("correct horse")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_two_hashes_of_one_password_differ(passwords: Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


async def test_nobody_has_a_password_but_it_is_checked_like_anybodys(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    matches = passwords._matches

    def noted(password_hash: str, password: str) -> bool:
        checked.append(password_hash)
        return matches(password_hash, password)

    monkeypatch.setattr(passwords, "_matches", noted)
    assert not await passwords.verify(None, "correct horse")
    assert len(checked) == 1
    assert checked[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_a_stored_hash_that_is_none_matches_nothing(passwords: Passwords) -> None:
    assert not await passwords.verify("not a hash", "correct horse")


async def test_a_caller_beyond_the_bound_is_told_to_come_back(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "MAX_CHECKS_WAITING", 0)
    bound = credentials.MAX_CHECKS_AT_ONCE
    first = [asyncio.ensure_future(passwords.hash("correct horse")) for _ in range(bound + 1)]
    results = await asyncio.gather(*first, return_exceptions=True)
    assert [type(result) for result in results] == [str] * bound + [BusyError]
    assert await passwords.hash("there is room again")


def test_a_token_says_who_what_and_how_long() -> None:
    tokens = new_tokens()
    issued = tokens.issue(USER)
    keys = KeySet.import_key_set(json.loads(tokens.key_set_json()))
    token = jwt.decode(issued.text, keys, algorithms=["Ed25519"])
    seconds = int(NOW.timestamp())
    assert token.claims.pop("jti")
    assert token.claims == {
        "iss": "sagacity",
        "aud": "sagacity-api",
        "sub": str(USER.id),
        "role": "support",
        "iat": seconds,
        "exp": seconds + 3600,
    }
    assert issued.expire_time == NOW.replace(microsecond=0) + timedelta(hours=1)


def test_a_token_names_its_algorithm_and_the_thumbprint_of_its_key() -> None:
    pem = private_pem()
    tokens = AccessTokens(pem, clock=StoppedClock(), new_id=new_id)
    token = jwt.decode(tokens.issue(USER).text, OKPKey.import_key(pem), algorithms=["Ed25519"])
    assert token.header["alg"] == "Ed25519"
    assert token.header["kid"] == OKPKey.import_key(pem).thumbprint()


def test_a_token_of_another_key_is_refused() -> None:
    forged = new_tokens().issue(USER).text
    with pytest.raises(BadSignatureError):
        jwt.decode(forged, OKPKey.import_key(private_pem()), algorithms=["Ed25519"])


def test_the_key_set_holds_nothing_private() -> None:
    (key,) = json.loads(new_tokens().key_set_json())["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}


def test_a_key_of_another_kind_cannot_sign() -> None:
    other_curve = OKPKey.generate_key("X25519").as_pem(private=True).decode()
    public_only = OKPKey.generate_key("Ed25519").as_pem(private=False).decode()
    rsa = RSAKey.generate_key(2048).as_pem(private=True).decode()
    for pem in (other_curve, public_only, rsa, "no key at all"):
        with pytest.raises(ValueError, match=r".+"):
            AccessTokens(pem, clock=StoppedClock(), new_id=new_id)
