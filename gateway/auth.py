"""Who is calling.

Access tokens of the users service, verified with its published keys and remembered until they expire.
"""

import asyncio
import json
import re
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from chassis.clock import Clock
from chassis.errors import Fault, FaultKind
from chassis.identity import Caller
from gateway.config import SERVICE_NAME
from gateway.problems import DOMAIN

ISSUER: Final = "sagacity"
AUDIENCE: Final = "sagacity-api"
ALGORITHM: Final = "Ed25519"
ROLES: Final = frozenset({"customer", "support", "admin"})
MAX_TOKEN_CHARACTERS: Final = 4096
MAX_REMEMBERED_TOKENS: Final = 10_000
MAX_KEYS: Final = 20
# Hosts' clocks differ: a token of the users service may seem to be from the near future.
CLOCK_LEEWAY_SECONDS: Final = 30
# Keys older than that are fetched again, so that a withdrawn one stops being believed.
KEY_REFRESH_SECONDS: Final = 300.0
# Unknown key ids cause at most one fetch in that time, whoever invents them.
KEY_REFRESH_PAUSE_SECONDS: Final = 5.0

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_NOT_A_TOKEN: Final = (
    JoseError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_LOG: Final = structlog.get_logger(__name__)


class Access(StrEnum):
    """Who may call a route."""

    ANYONE = "anyone"
    USER = "user"
    STAFF = "staff"
    ADMIN = "admin"


_ROLES_OF: Final = {
    Access.USER: ROLES,
    Access.STAFF: frozenset({"support", "admin"}),
    Access.ADMIN: frozenset({"admin"}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A user who proved who they are; `expires_at` is in seconds since 1970, leeway included."""

    user_id: UUID
    role: str
    expires_at: int

    def caller(self) -> Caller:
        """Tells the backends for whom the gateway acts."""
        return Caller(service=SERVICE_NAME, user_id=self.user_id, role=self.role)


class UserKeys:
    """The users service's public keys, fetched when they are needed and kept.

    Old keys go on being used while the users service is away: a token must not stop working because of that.
    """

    def __init__(self, fetch: Callable[[], Awaitable[str]], *, seconds: Callable[[], float]) -> None:
        """Makes an empty cache.

        Args:
            fetch: Gets the JSON Web Key Set as text; raises Fault.
            seconds: A monotonic clock.
        """
        self._fetch = fetch
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._keys: KeySet | None = None
        self._ids: frozenset[str] = frozenset()
        self._text = ""
        self._fetched_at = -KEY_REFRESH_SECONDS
        self._tried_at = -KEY_REFRESH_SECONDS

    async def text(self) -> str:
        """Returns the key set as JSON text, at most KEY_REFRESH_SECONDS old where the users service is there.

        Raises:
            Fault: There is no key set yet and the users service does not answer.
        """
        await self._refresh_if(self._is_old)
        return self._text

    async def having(self, key_id: str) -> KeySet:
        """Returns the key set, fetched anew where it is old or does not have that key.

        It is not fetched within KEY_REFRESH_PAUSE_SECONDS of the last attempt.

        Raises:
            Fault: There is no key set yet and the users service does not answer.
        """
        await self._refresh_if(lambda: self._is_old() or key_id not in self._ids)
        assert self._keys is not None
        return self._keys

    def _is_old(self) -> bool:
        return self._seconds() - self._fetched_at >= KEY_REFRESH_SECONDS

    async def _refresh_if(self, wanted: Callable[[], bool]) -> None:
        if self._keys is not None and not wanted():
            return
        async with self._lock:  # one fetch for all who wait; each looks again whether it is still wanted
            pausing = self._seconds() - self._tried_at < KEY_REFRESH_PAUSE_SECONDS
            if self._keys is not None and (pausing or not wanted()):
                return
            try:
                self._adopt(await self._fetch())
            except (Fault, JoseError, ValueError, TypeError, KeyError) as error:
                if self._keys is None:
                    raise _keys_unavailable(error) from error
                _LOG.warning("user keys could not be refreshed", error=type(error).__name__)
            finally:
                self._tried_at = self._seconds()

    def _adopt(self, text: str) -> None:
        found = json.loads(text)
        entries = [key for key in found["keys"] if key.get("crv") == ALGORITHM][:MAX_KEYS]
        self._keys = KeySet.import_key_set({"keys": entries})
        self._ids = frozenset(str(key["kid"]) for key in entries)
        self._text = text
        self._fetched_at = self._seconds()


def _keys_unavailable(error: Exception) -> Fault:
    if isinstance(error, Fault) and error.kind in {FaultKind.UNAVAILABLE, FaultKind.RESOURCE_EXHAUSTED}:
        return error
    return Fault(FaultKind.UNAVAILABLE, "KEYS_UNAVAILABLE", "Tokens cannot be checked now.", domain=DOMAIN)


class Authenticator:
    """Turns an Authorization header into a principal.

    Verified tokens are remembered, the least used forgotten first.
    """

    def __init__(self, keys: UserKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._remembered: OrderedDict[str, Principal] = OrderedDict()
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(clock.now().timestamp()),
            leeway=CLOCK_LEEWAY_SECONDS,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
            sub={"essential": True},
            role={"essential": True, "values": sorted(ROLES)},
        )

    async def authenticate(self, headers: list[str], access: Access) -> Principal | None:
        """Checks that the caller may call a route.

        Args:
            headers: The values of the request's Authorization headers.
            access: Who may call the route.

        Returns:
            The caller; None on a route for anyone, whose callers are not looked at.

        Raises:
            Fault: UNAUTHENTICATED without a valid token, PERMISSION_DENIED without the role, UNAVAILABLE
                while no token can be checked.
        """
        if access is Access.ANYONE:
            return None
        principal = await self._principal(_bearer(headers))
        if principal.role not in _ROLES_OF[access]:
            raise Fault(
                FaultKind.PERMISSION_DENIED, "ROLE_REQUIRED", "Your role may not do this.", domain=DOMAIN
            )
        return principal

    async def _principal(self, token: str) -> Principal:
        remembered = self._remembered.get(token)
        if remembered is not None:
            if remembered.expires_at > self._clock.now().timestamp():
                self._remembered.move_to_end(token)
                return remembered
            del self._remembered[token]
            raise _unauthenticated("TOKEN_EXPIRED", "The access token has expired.")
        principal = await self._verify(token)
        self._remembered[token] = principal
        if len(self._remembered) > MAX_REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)
        return principal

    async def _verify(self, token: str) -> Principal:
        keys = await self._keys.having(_key_id(token))
        try:
            claims = jwt.decode(token, keys, algorithms=[ALGORITHM]).claims
            self._claims.validate(claims)
            # A list passes the registry, which takes it for a choice; as text it is no role of ours.
            return Principal(
                UUID(claims["sub"]), str(claims["role"]), int(claims["exp"]) + CLOCK_LEEWAY_SECONDS
            )
        except _NOT_A_TOKEN as error:
            raise _unauthenticated("TOKEN_INVALID", "The access token is not valid.") from error


def _bearer(headers: list[str]) -> str:
    if len(headers) != 1:
        raise _unauthenticated("TOKEN_MISSING", "Send one header Authorization: Bearer <access token>.")
    scheme, _, token = headers[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or len(token) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
        raise _unauthenticated("TOKEN_INVALID", "The Authorization header holds no access token.")
    return token


def _key_id(token: str) -> str:
    """Reads the key id of a token that is not verified yet; only used to decide whether to fetch keys."""
    try:
        header = _header(token)
    except (ValueError, RecursionError) as error:
        raise _unauthenticated("TOKEN_INVALID", "The access token is not valid.") from error
    key_id = header.get("kid")
    if header.get("alg") != ALGORITHM or not isinstance(key_id, str):
        raise _unauthenticated("TOKEN_INVALID", "The access token is not valid.")
    return key_id


def _header(token: str) -> dict[str, Any]:
    part = token.split(".", 1)[0]
    header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(header, dict):
        raise ValueError("the header is no object")  # noqa: TRY004
    return header


def _unauthenticated(reason: str, message: str) -> Fault:
    return Fault(FaultKind.UNAUTHENTICATED, reason, message, domain=DOMAIN)
