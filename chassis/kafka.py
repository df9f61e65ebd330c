"""Where Kafka is, and how it is spoken to: in the clear or by TLS, and as whom."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]

# Without one OpenSSL would ask for it on the terminal, and the process would wait for ever.
_NO_PASSPHRASE = ""


class KafkaClusterError(OSError):
    """A field of a cluster cannot be as it is.

    An OSError, as of a broker that is away: a file may turn bad while a process runs, and whoever makes a
    client tries again later.

    Attributes:
        field: Which one.
        problem: What is wrong with it, without its value.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class KafkaCluster:
    """The servers, and what they want to see; false where there are none.

    Raises:
        KafkaClusterError: Fields contradict each other; what is in files is looked at later.
    """

    bootstrap_servers: str
    security_protocol: SecurityProtocol = "PLAINTEXT"
    # None: those that the system trusts.
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    # Without SASL nobody asks for it.
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        wrong = next(chain(self._contradictions_of_tls(), self._contradictions_of_sasl()), None)
        if wrong is not None:
            raise KafkaClusterError(*wrong)

    def __bool__(self) -> bool:
        """Whether there is a server."""
        return bool(self.bootstrap_servers)

    @property
    def has_tls(self) -> bool:
        """Whether what is said is encrypted, and the servers prove who they are."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def has_sasl(self) -> bool:
        """Whether clients log in with a name and a password."""
        return self.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}

    def client_options(self) -> dict[str, Any]:
        """Returns the arguments that every client of aiokafka takes.

        Certificates are read each time, so that the next client has those that are there now.

        Raises:
            KafkaClusterError: A file is not what it should be.
        """
        options: dict[str, Any] = {"bootstrap_servers": self.bootstrap_servers}
        if self.has_tls or self.has_sasl:
            options["security_protocol"] = self.security_protocol
        if self.has_tls:
            options["ssl_context"] = self._ssl_context()
        if self.has_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password
        return options

    def _contradictions_of_tls(self) -> Iterator[tuple[str, str]]:
        files = ("ca_file", "certificate_file", "key_file")
        for name in files:
            if getattr(self, name) is not None and not self.has_tls:
                yield name, "is set, and the security protocol has no TLS"
        if self.certificate_file is None and self.key_file is not None:
            yield "certificate_file", "is not set, and the file of its key is"
        if self.key_file is None and self.certificate_file is not None:
            yield "key_file", "is not set, and the file of its certificate is"

    def _contradictions_of_sasl(self) -> Iterator[tuple[str, str]]:
        for name in ("username", "password"):
            value: str = getattr(self, name)
            if self.has_sasl and not value:
                yield name, "is not set, and the security protocol has SASL"
            if value and not self.has_sasl:
                yield name, "is set, and the security protocol has no SASL"
            # What PLAIN sends has them between its parts.
            if "\0" in value:
                yield name, "has a NUL in it"

    def _ssl_context(self) -> ssl.SSLContext:
        if self.ca_file is not None:
            _require_certificate("ca_file", self.ca_file)
        # It verifies certificates and the names in them.
        context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None and self.key_file is not None:
            _require_certificate("certificate_file", self.certificate_file)
            _require_readable("key_file", self.key_file)
            try:
                context.load_cert_chain(self.certificate_file, self.key_file, password=_NO_PASSPHRASE)
            except ssl.SSLError:
                problem = "holds no private key of the certificate, or one that needs a passphrase"
                raise KafkaClusterError("key_file", problem) from None
        return context


def _require_readable(name: str, file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise KafkaClusterError(name, f"cannot be read: {type(error).__name__}") from None


def _require_certificate(name: str, file: Path) -> None:
    _require_readable(name, file)
    try:
        # What is loaded into this one is only looked at.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError:
        raise KafkaClusterError(name, "holds no certificate in PEM") from None
