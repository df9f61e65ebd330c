"""Tokens: what is believed, what is remembered, and when keys are fetched."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from chassis.errors import Fault, FaultKind
from gateway import auth
from gateway.auth import Access, Authenticator, UserKeys

USER = UUID("018f7e9c-5d1a-7c3e-9b1f-2a6d4c8e0f11")
START = datetime(2026, 11, 21, tzinfo=UTC)


class HandClock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def seconds(self) -> float:
        return (self.time - START).total_seconds()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def new_key(key_id: str) -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": key_id, "alg": "Ed25519", "use": "sig"})


class Issuer:
    """A users service in small: it has keys, signs tokens, and can be away."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.keys = [new_key("k1")]
        self.fetches = 0
        self.away = False

    async def fetch(self) -> str:
        self.fetches += 1
        if self.away:
            raise Fault(FaultKind.UNAVAILABLE, "UNAVAILABLE", "away")
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]})

    def token(self, key: OKPKey | None = None, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        key = key or self.keys[-1]
        now = int(self.clock.now().timestamp())
        standard = {"iss": "sagacity", "aud": "sagacity-api", "sub": str(USER), "role": "customer"}
        merged = {**standard, "iat": now, "exp": now + 900, **claims}
        body = {name: value for name, value in merged.items() if value is not None}
        return jwt.encode(
            {"alg": "Ed25519", "kid": key.kid, **(header or {})}, body, key, algorithms=["Ed25519"]
        )


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def issuer(clock: HandClock) -> Issuer:
    return Issuer(clock)


@pytest.fixture
def authenticator(issuer: Issuer, clock: HandClock) -> Authenticator:
    return Authenticator(UserKeys(issuer.fetch, seconds=clock.seconds), clock)


async def reason(authenticator: Authenticator, *headers: str, access: Access = Access.USER) -> str:
    with pytest.raises(Fault) as caught:
        await authenticator.authenticate(list(headers), access)
    return caught.value.reason


async def test_a_good_token_names_its_user(authenticator: Authenticator, issuer: Issuer) -> None:
    principal = await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)
    assert principal is not None
    assert (principal.user_id, principal.role) == (USER, "customer")
    assert principal.caller().service == "gateway"


async def test_the_scheme_is_compared_without_regard_to_case(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    assert await authenticator.authenticate([f"bearer {issuer.token()}"], Access.USER)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "other"},
        {"iss": None},
        {"aud": "sagacity"},
        {"aud": None},
        {"exp": None},
        {"exp": 1},
        {"exp": "x"},
        {"sub": None},
        {"sub": "not-a-uuid"},
        {"sub": 5},
        {"role": None},
        {"role": "root"},
        {"role": {"a": 1}},
        {"nbf": 99999999999},
    ],
)
async def test_a_token_with_wrong_claims_is_refused(
    authenticator: Authenticator, issuer: Issuer, claims: dict[str, Any]
) -> None:
    assert await reason(authenticator, f"Bearer {issuer.token(**claims)}") == "TOKEN_INVALID"


async def test_a_token_of_a_foreign_key_with_a_known_id_is_refused(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    assert await reason(authenticator, f"Bearer {issuer.token(new_key('k1'))}") == "TOKEN_INVALID"


async def test_no_other_algorithm_is_believed(authenticator: Authenticator, issuer: Issuer) -> None:
    public = issuer.keys[0].as_dict(private=False)["x"]
    secret = OctKey.import_key(str(public), {"kid": "k1"})
    forged = jwt.encode({"alg": "HS256", "kid": "k1"}, {"sub": str(USER)}, secret, algorithms=["HS256"])
    header = urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').decode().rstrip("=")
    none = f"{header}.e30.x"
    for token in (forged, none):
        assert await reason(authenticator, f"Bearer {token}") == "TOKEN_INVALID"


async def test_a_missing_or_doubled_header_is_refused(authenticator: Authenticator, issuer: Issuer) -> None:
    assert await reason(authenticator) == "TOKEN_MISSING"
    assert (
        await reason(authenticator, f"Bearer {issuer.token()}", f"Bearer {issuer.token()}") == "TOKEN_MISSING"
    )


@given(
    text=st.text(max_size=300)
    | st.from_regex(r"[A-Za-z0-9_-]{1,80}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{0,90}")
)
async def test_no_text_in_place_of_a_token_is_more_than_a_401(text: str) -> None:
    clock = HandClock()
    authenticator = Authenticator(UserKeys(Issuer(clock).fetch, seconds=clock.seconds), clock)
    with pytest.raises(Fault) as caught:
        await authenticator.authenticate([f"Bearer {text}"], Access.USER)
    assert caught.value.kind is FaultKind.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("access", "role", "allowed"),
    [
        (Access.USER, "customer", True),
        (Access.USER, "admin", True),
        (Access.STAFF, "customer", False),
        (Access.STAFF, "support", True),
        (Access.STAFF, "admin", True),
        (Access.ADMIN, "customer", False),
        (Access.ADMIN, "support", False),
        (Access.ADMIN, "admin", True),
    ],
)
async def test_a_role_opens_what_it_may(
    authenticator: Authenticator, issuer: Issuer, access: Access, role: str, *, allowed: bool
) -> None:
    header = f"Bearer {issuer.token(role=role)}"
    if allowed:
        assert await authenticator.authenticate([header], access)
    else:
        assert await reason(authenticator, header, access=access) == "ROLE_REQUIRED"


async def test_anyone_is_let_in_without_a_look_at_the_header(authenticator: Authenticator) -> None:
    assert await authenticator.authenticate(["nonsense"], Access.ANYONE) is None


async def test_a_token_is_verified_once_and_remembered_until_it_expires(
    authenticator: Authenticator, issuer: Issuer, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = [f"Bearer {issuer.token()}"]
    first = await authenticator.authenticate(header, Access.USER)
    monkeypatch.setattr("gateway.auth.jwt.decode", None)  # a second verification would fail on this
    assert await authenticator.authenticate(header, Access.USER) is first
    clock.advance(900 + auth.CLOCK_LEEWAY_SECONDS)
    assert await reason(authenticator, *header) == "TOKEN_EXPIRED"


async def test_the_memory_of_tokens_is_bounded(
    authenticator: Authenticator, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_REMEMBERED_TOKENS", 3)
    for number in range(5):
        await authenticator.authenticate([f"Bearer {issuer.token(jti=str(number))}"], Access.USER)
    assert len(authenticator._remembered) == 3


async def test_a_new_key_is_fetched_when_a_token_names_it(
    authenticator: Authenticator, issuer: Issuer, clock: HandClock
) -> None:
    await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)
    issuer.keys.append(new_key("k2"))
    clock.advance(auth.KEY_REFRESH_PAUSE_SECONDS)
    assert await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)
    assert issuer.fetches == 2


async def test_invented_key_ids_do_not_cause_a_fetch_each(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    for number in range(50):
        token = issuer.token(new_key(f"invented-{number}"))
        assert await reason(authenticator, f"Bearer {token}") == "TOKEN_INVALID"
    assert issuer.fetches == 1


async def test_a_withdrawn_key_stops_being_believed(
    authenticator: Authenticator, issuer: Issuer, clock: HandClock
) -> None:
    await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)
    old = issuer.keys.pop()
    issuer.keys.append(new_key("k2"))
    clock.advance(auth.KEY_REFRESH_SECONDS)
    assert await reason(authenticator, f"Bearer {issuer.token(old)}") == "TOKEN_INVALID"


async def test_tokens_are_still_checked_while_the_users_service_is_away(
    authenticator: Authenticator, issuer: Issuer, clock: HandClock
) -> None:
    await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)
    issuer.away = True
    clock.advance(auth.KEY_REFRESH_SECONDS * 2)
    assert await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)


async def test_without_any_key_the_answer_is_to_come_back(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    issuer.away = True
    with pytest.raises(Fault) as caught:
        await authenticator.authenticate([f"Bearer {issuer.token()}"], Access.USER)
    assert caught.value.kind is FaultKind.UNAVAILABLE


async def test_a_list_of_roles_is_no_role(authenticator: Authenticator, issuer: Issuer) -> None:
    assert await reason(authenticator, f"Bearer {issuer.token(role=['admin'])}") == "ROLE_REQUIRED"


async def test_a_clock_that_is_a_little_behind_does_not_refuse_new_tokens(
    authenticator: Authenticator, issuer: Issuer, clock: HandClock
) -> None:
    token = issuer.token()
    clock.advance(-auth.CLOCK_LEEWAY_SECONDS)
    assert await authenticator.authenticate([f"Bearer {token}"], Access.USER)


async def test_the_tokens_of_the_users_service_are_believed(clock: HandClock) -> None:
    from chassis.ids import new_id
    from services.users.credentials import AccessTokens
    from services.users.domain import Role, User, UserState

    private_pem = new_key("any").as_pem(private=True).decode()
    tokens = AccessTokens(private_pem, clock=clock, new_id=new_id)

    async def fetch() -> str:
        return tokens.key_set_json()

    believing = Authenticator(UserKeys(fetch, seconds=clock.seconds), clock)
    user = User(USER, "a@example.com", "A", Role.ADMIN, UserState.ACTIVE, START)
    principal = await believing.authenticate([f"Bearer {tokens.issue(user).text}"], Access.ADMIN)
    assert principal is not None
    assert (principal.user_id, principal.role) == (USER, "admin")
