"""Apache Kafka with a listener that wants a password by TLS and one that wants a certificate."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from chassis.kafka import KafkaCluster
from deploy.local.children import LOOPBACK, free_port
from deploy.local.kafka import ApacheKafka
from tests.certificates import Authority, Pair

USER = "sagacity"
PASSWORD = "for-tests-by-scram"
PLAIN_PASSWORD = "for-tests-in-plain"
# The controller speaks in the clear by itself only where nobody has TLS or SASL.
PROTOCOLS = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PLAIN_PASSWORD}";'


class SecureKafka(ApacheKafka):
    """One broker: in the clear for itself, SASL_SSL, and SSL for clients that prove themselves."""

    def __init__(self, folder: Path, *, jars: Path) -> None:
        super().__init__(folder / "broker", jars=jars)
        self.authority = Authority(folder, "authority")
        # An address and no name: whoever comes by a name does not find it in the certificate.
        server = self.authority.issue("server", LOOPBACK)
        self._key_store = folder / "server.pem"
        self._key_store.write_bytes(server.key.read_bytes() + server.certificate.read_bytes())
        self.sasl_port = free_port()
        self.ssl_port = free_port()

    def with_password(
        self,
        *,
        password: str = PASSWORD,
        ca_file: Path | None = None,
        host: str = LOOPBACK,
    ) -> KafkaCluster:
        """Return what a client needs for the listener that wants a password."""
        return KafkaCluster(
            f"{host}:{self.sasl_port}",
            security_protocol="SASL_SSL",
            ca_file=ca_file or self.authority.file,
            username=USER,
            password=password,
        )

    def with_certificate(self, pair: Pair | None) -> KafkaCluster:
        """Return what a client needs for the listener that wants a certificate."""
        return KafkaCluster(
            f"{LOOPBACK}:{self.ssl_port}",
            security_protocol="SSL",
            ca_file=self.authority.file,
            certificate_file=pair.certificate if pair else None,
            key_file=pair.key if pair else None,
        )

    @override
    def format_options(self) -> list[str]:
        return [
            option
            for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256")
            for option in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
        ]

    @override
    def properties(self) -> dict[str, object]:
        ours = super().properties()
        listeners = f"SASL_SSL://{LOOPBACK}:{self.sasl_port},SSL://{LOOPBACK}:{self.ssl_port}"
        return {
            **ours,
            "listeners": f"{ours['listeners']},{listeners}",
            "listener.security.protocol.map": PROTOCOLS,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._key_store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority.file,
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": SCRAM,
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": SCRAM,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": PLAIN,
        }
