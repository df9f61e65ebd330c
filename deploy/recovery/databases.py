"""Where the databases and Kafka are: from the same settings that the processes read."""

from __future__ import annotations

from collections.abc import Iterable

from chassis.config import ProcessSettings
from chassis.kafka import KafkaCluster


def dsns(contexts: Iterable[str]) -> dict[str, str]:
    """Return the DSN of each context's database, from SAGACITY_<CONTEXT>_DATABASE_DSN or its file.

    Raises:
        SettingsError: naming the variable that is missing.
    """
    return {context: _settings(context).required("database_dsn") for context in contexts}


def kafka_cluster() -> KafkaCluster:
    """Return where Kafka is and how it is spoken to, from SAGACITY_KAFKA_BOOTSTRAP_SERVERS and its like.

    Raises:
        SettingsError: naming the variable that is missing or wrong.
    """
    settings = _settings("recovery")
    settings.required("kafka_bootstrap_servers")
    return settings.kafka


def _settings(context: str) -> ProcessSettings:
    class ContextSettings(ProcessSettings):
        process = context

    return ContextSettings.read()
