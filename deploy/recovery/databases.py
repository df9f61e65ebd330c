"""Where the databases and Kafka are: from the same settings that the processes read."""

from __future__ import annotations

from collections.abc import Iterable

from chassis.config import ProcessSettings


def dsns(contexts: Iterable[str]) -> dict[str, str]:
    """Return the DSN of each context's database, from SAGACITY_<CONTEXT>_DATABASE_DSN or its file.

    Raises:
        SettingsError: naming the variable that is missing.
    """
    return {context: _settings(context).required("database_dsn") for context in contexts}


def kafka_bootstrap_servers() -> str:
    """Return SAGACITY_KAFKA_BOOTSTRAP_SERVERS; SettingsError where it is missing."""
    return str(_settings("users").required("kafka_bootstrap_servers"))


def _settings(context: str) -> ProcessSettings:
    class ContextSettings(ProcessSettings):
        process = context

    return ContextSettings.read()
