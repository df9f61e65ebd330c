"""Settings from the environment and from secret files: the only place that reads either."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from chassis.kafka import KafkaCluster, KafkaClusterError, SaslMechanism, SecurityProtocol

PREFIX = "SAGACITY_"
# What all processes of a suite share is set without the name of a process.
_SHARED = frozenset(
    {
        "identity_keys_file",
        "kafka_bootstrap_servers",
        "kafka_security_protocol",
        "kafka_ca_file",
        "kafka_certificate_file",
        "kafka_key_file",
        "kafka_sasl_mechanism",
        "kafka_username",
        "kafka_password",
        "log_format",
        "users_address",
        "inventory_address",
        "payments_address",
        "orders_address",
        "orchestrator_address",
    }
)


class SettingsError(Exception):
    """The environment is wrong; the message names the variables, never their values."""


def environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ  # noqa: TID251 - the one place


class _Environment(PydanticBaseSettingsSource):
    """Reads SAGACITY_<PROCESS>_<FIELD>, SAGACITY_<FIELD> for shared ones, and files in <VARIABLE>_FILE."""

    @override
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # pragma: no cover - __call__ reads all fields at once

    @override
    def __call__(self) -> dict[str, Any]:
        process: str = getattr(self.settings_cls, "process", "")
        found: dict[str, Any] = {}
        for name in self.settings_cls.model_fields:
            for variable in variables(process, name):
                value = _read(variable)
                if value is not None:
                    found[name] = value
                    break
        return found


def variables(process: str, field: str) -> list[str]:
    """The variables that set a field, the more particular first."""
    own = f"{PREFIX}{process}_{field}".upper()
    return [own, f"{PREFIX}{field}".upper()] if field in _SHARED else [own]


def _read(variable: str) -> str | None:
    variables_now = environment()
    if variables_now.get(variable):
        return variables_now[variable]
    file = variables_now.get(f"{variable}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable}_FILE names a file that cannot be read: {type(error).__name__}"
        ) from None


class ProcessSettings(BaseSettings):
    """The settings that every process has. A subclass says which process it is, and adds its own."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)
    process: ClassVar[str] = ""

    database_dsn: SecretStr = Field(default=SecretStr(""), description="libpq connection string")
    listen: str = Field(default="127.0.0.1:0", pattern=r"^[^:]+:\d+$", description="host:port to serve on")
    metrics_listen: str = Field(default="", pattern=r"^([^:]+:\d+)?$", description="host:port; empty: none")
    kafka_bootstrap_servers: str = Field(default="", description="host:port,...; empty: no events")
    kafka_security_protocol: SecurityProtocol = "PLAINTEXT"
    kafka_ca_file: Path | None = Field(default=None, description="PEM; none: what the system trusts")
    kafka_certificate_file: Path | None = Field(default=None, description="PEM of the client's certificate")
    kafka_key_file: Path | None = Field(default=None, description="PEM of its private key, no passphrase")
    kafka_sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    kafka_username: str = Field(default="", description="with SASL")
    kafka_password: SecretStr = Field(default=SecretStr(""), description="with SASL")
    relay_enabled: bool = Field(default=True, description="false where Debezium publishes the outbox")
    identity_key_file: Path | None = Field(default=None, description="PEM of this process's private key")
    identity_keys_file: Path | None = Field(default=None, description="JWKS of all services' public keys")
    log_format: Literal["console", "json"] = "console"
    users_address: str = "127.0.0.1:50051"
    orders_address: str = "127.0.0.1:50052"
    payments_address: str = "127.0.0.1:50053"
    inventory_address: str = "127.0.0.1:50054"
    orchestrator_address: str = "127.0.0.1:50055"

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read our own variables only: defaults of the library would let any variable set a field."""
        return init_settings, _Environment(settings_cls)

    @classmethod
    def read(cls) -> Self:
        """Read the settings from the environment.

        Raises:
            SettingsError: naming each variable that is missing or wrong, and never a value.
        """
        try:
            return cls()
        except ValidationError as error:
            problems = [
                f"{cls._named(item['loc'])}: {item['msg']}"
                for item in error.errors(include_input=False, include_context=False)
            ]
            raise SettingsError("; ".join(problems)) from None

    @property
    def kafka(self) -> KafkaCluster:
        """Where Kafka is and how it is spoken to; false where there is none.

        Its files are read once, so that who starts with wrong ones is told so.

        Raises:
            SettingsError: naming a variable that contradicts another one, or whose file cannot be used.
        """
        try:
            kafka = KafkaCluster(
                bootstrap_servers=self.kafka_bootstrap_servers,
                security_protocol=self.kafka_security_protocol,
                ca_file=self.kafka_ca_file,
                certificate_file=self.kafka_certificate_file,
                key_file=self.kafka_key_file,
                sasl_mechanism=self.kafka_sasl_mechanism,
                username=self.kafka_username,
                password=self.kafka_password.get_secret_value(),
            )
            if kafka:
                kafka.client_options()
        except KafkaClusterError as error:
            raise SettingsError(f"{self._named((f'kafka_{error.field}',))} {error.problem}") from None
        return kafka

    @classmethod
    def _named(cls, place: tuple[int | str, ...]) -> str:
        return variables(cls.process, str(place[0]))[-1] if place else f"settings of {cls.process}"

    def required(self, field: str) -> Any:
        """The value of a field that this process cannot do without; SettingsError where it is empty."""
        value = getattr(self, field)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not text:
            raise SettingsError(f"{variables(self.process, field)[-1]} is not set")
        return text
