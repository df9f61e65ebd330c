"""Passwords and access tokens: the only place that touches a secret of a user or the signing key."""

import asyncio
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from chassis.clock import Clock
from chassis.ids import NewId
from services.users.domain import BusyError, User

# OWASP's second choice for argon2id: 19 MiB, two passes, one lane; about 20 ms of one core.
ARGON2_MEMORY_KIB = 19 * 1024
ARGON2_PASSES = 2
ARGON2_LANES = 1
# A running check takes 19 MiB and a core for 19 ms: one at a time is 50 logins a second, and starves nobody.
MAX_CHECKS_AT_ONCE = 1
# Those that wait: about a second of work. A caller beyond is better told to come back than left to time out.
MAX_CHECKS_WAITING = 64

TOKEN_ALGORITHM = "Ed25519"  # noqa: S105 - RFC 9864's name of an algorithm, not a secret
TOKEN_ISSUER = "sagacity"  # noqa: S105 - a name
TOKEN_AUDIENCE = "sagacity-api"  # noqa: S105 - a name
TOKEN_LIFETIME = timedelta(hours=1)

T = TypeVar("T")


class Passwords:
    """Hashes and checks passwords with argon2id on a few threads of its own, never on the event loop."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(
            time_cost=ARGON2_PASSES, memory_cost=ARGON2_MEMORY_KIB, parallelism=ARGON2_LANES, type=Type.ID
        )
        self._threads = ThreadPoolExecutor(MAX_CHECKS_AT_ONCE, thread_name_prefix="argon2")
        self._pending = 0
        self._nobodys_hash = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """The encoded argon2id hash of a password, with a salt of its own.

        Raises:
            BusyError: too many wait already.
        """
        return await self._on_a_thread(lambda: self._hasher.hash(password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the one that was hashed.

        Args:
            password_hash: None for a user who does not exist; the same work is done, so time does not tell.
            password: what the caller typed.

        Raises:
            BusyError: too many wait already.
        """
        matches = await self._on_a_thread(
            lambda: self._matches(password_hash or self._nobodys_hash, password)
        )
        return matches and password_hash is not None

    def close(self) -> None:
        """Ends the threads; checks that wait are given up."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _on_a_thread(self, work: Callable[[], T]) -> T:
        if self._pending >= MAX_CHECKS_AT_ONCE + MAX_CHECKS_WAITING:
            raise BusyError
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._pending -= 1


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token (RFC 7519) and when it stops being valid."""

    text: str
    expire_time: datetime


class AccessTokens:
    """Issues access tokens and publishes the key that verifies them."""

    def __init__(self, private_key_pem: str, *, clock: Clock, new_id: NewId) -> None:
        """Loads the key.

        Args:
            private_key_pem: an Ed25519 private key, PKCS #8 in PEM.
            clock: the time that tokens are issued at.
            new_id: makes each token's `jti`.

        Raises:
            ValueError: the key is no private Ed25519 key.
        """
        key = _signing_key(private_key_pem)
        self._key = key
        self._kid = key.thumbprint()
        self._clock = clock
        self._new_id = new_id

    def issue(self, user: User) -> AccessToken:
        """A token that says who the user is and what role they have, for `TOKEN_LIFETIME`."""
        issued = int(self._clock.now().timestamp())
        expires = issued + int(TOKEN_LIFETIME.total_seconds())
        text = jwt.encode(
            {"alg": TOKEN_ALGORITHM, "kid": self._kid},
            {
                "iss": TOKEN_ISSUER,
                "aud": TOKEN_AUDIENCE,
                "sub": str(user.id),
                "role": user.role.lower(),
                "iat": issued,
                "exp": expires,
                "jti": str(self._new_id()),
            },
            self._key,
            algorithms=[TOKEN_ALGORITHM],
        )
        return AccessToken(text, datetime.fromtimestamp(expires, UTC))

    def key_set_json(self) -> str:
        """The public key as a JSON Web Key Set (RFC 7517)."""
        public = self._key.as_dict(private=False)
        key = {**public, "kid": self._kid, "use": "sig", "alg": TOKEN_ALGORITHM}
        return json.dumps({"keys": [key]}, sort_keys=True)


def _signing_key(pem: str) -> OKPKey:
    try:
        key = OKPKey.import_key(pem)
    except (JoseError, ValueError):
        # Neither the text nor the library's error about it belongs in a log.
        raise ValueError("the signing key is no private key in PEM") from None
    if key.curve_name != "Ed25519" or not key.is_private:
        raise ValueError("the signing key must be a private Ed25519 key")
    return key
