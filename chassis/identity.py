"""Who calls: services prove themselves by short-lived Ed25519 tokens, and name the user they act for."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from chassis.config import SettingsError
from chassis.errors import Fault, FaultKind

ALGORITHM = "Ed25519"
AUDIENCE = "sagacity"
TOKEN_SECONDS = 300
MAX_CACHED_TOKENS = 256
# Between the clocks of two hosts.
CLOCK_SKEW_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: a service, and the user that it acts for, if any. Roles: customer, support, admin."""

    service: str
    user_id: UUID | None = None
    role: str | None = None

    @property
    def is_staff(self) -> bool:
        """Whether the user may see other people's data."""
        return self.role in {"support", "admin"}


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """The caller of the RPC that is being handled; LookupError outside of one."""
    caller = _caller.get()
    if caller is None:
        raise LookupError("there is no caller outside of an RPC")
    return caller


def set_caller(caller: Caller) -> None:
    """Say who calls, for the rest of this task. The server's interceptor does it, and tests."""
    _caller.set(caller)


def new_key_pair(name: str) -> tuple[str, dict[str, Any]]:
    """A private key as PEM, and the public one as JWK with the service's name as its id."""
    key = OKPKey.generate_key("Ed25519", private=True)
    return key.as_pem(private=True).decode(), {**key.as_dict(private=False), "kid": name}


class ServiceIdentity:
    """Makes this service's tokens."""

    def __init__(self, name: str, private_pem: str) -> None:
        self.name = name
        self._key = OKPKey.import_key(private_pem)
        self._token = ""
        self._renew_at = 0.0

    @classmethod
    def read(cls, name: str, file: Path) -> ServiceIdentity:
        """Read the private key from a PEM file; OSError, or SettingsError where it holds none."""
        try:
            return cls(name, file.read_text("utf-8"))
        except (JoseError, ValueError, TypeError):
            raise SettingsError(f"{file} holds no Ed25519 private key in PEM") from None

    def token(self) -> str:
        """A token that is good for at least half of its life."""
        now = time.time()
        if now >= self._renew_at:
            claims = {"iss": self.name, "aud": AUDIENCE, "iat": int(now), "exp": int(now) + TOKEN_SECONDS}
            header = {"alg": ALGORITHM, "kid": self.name}
            self._token = jwt.encode(header, claims, self._key, algorithms=[ALGORITHM])
            self._renew_at = now + TOKEN_SECONDS / 2
        return self._token


class Verifier:
    """Tells which service made a token; what was verified once is remembered until it expires."""

    def __init__(self, keys: dict[str, Any]) -> None:
        self._keys = KeySet.import_key_set(keys)  # type: ignore[arg-type]
        self._claims = jwt.JWTClaimsRegistry(
            leeway=CLOCK_SKEW_SECONDS,
            iss={"essential": True},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
        )
        self._verified: OrderedDict[str, tuple[str, float]] = OrderedDict()

    @classmethod
    def read(cls, file: Path) -> Verifier:
        """Read the public keys from a JWKS file; OSError, or SettingsError where it holds none."""
        try:
            return cls(json.loads(file.read_text("utf-8")))
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            raise SettingsError(f"{file} holds no JSON Web Key Set") from None

    def verify(self, token: str) -> str:
        """The name of the service whose token it is.

        Raises:
            Fault: UNAUTHENTICATED.
        """
        known = self._verified.get(token)
        if known is not None and known[1] > time.time():
            return known[0]
        try:
            decoded = jwt.decode(token, self._keys, algorithms=[ALGORITHM])
            self._claims.validate(decoded.claims)
            name, expiry = str(decoded.claims["iss"]), float(decoded.claims["exp"])
        except (JoseError, ValueError, TypeError, KeyError, OverflowError):
            raise _bad_token() from None
        # The key's id is the service's name: a service cannot speak in the name of another one.
        # A token that is good for longer than we make them is not one of ours.
        if decoded.header.get("kid") != name or expiry > time.time() + TOKEN_SECONDS + CLOCK_SKEW_SECONDS:
            raise _bad_token()
        self._verified[token] = (name, expiry)
        if len(self._verified) > MAX_CACHED_TOKENS:
            self._verified.popitem(last=False)
        return name


def _bad_token() -> Fault:
    return Fault(FaultKind.UNAUTHENTICATED, "BAD_SERVICE_TOKEN", "the service token is not valid")
