"""PostgreSQL and Apache Kafka in containers of their own, thrown away at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from deploy.local.children import LOOPBACK, free_port
from tests import docker_engine

# The same as in deploy/compose.yaml.
POSTGRES_IMAGE = "postgres:18.6-alpine3.24"
KAFKA_IMAGE = "apache/kafka:4.1.0"
PARTITIONS = 4
KAFKA_PORT = 9092
READY_SECONDS = 120


@contextmanager
def docker_postgres() -> Iterator[str]:
    """Yield the DSN of a superuser; fsync is off, for nothing here needs to survive the machine."""
    from testcontainers.community.postgres import PostgresContainer

    reap_what_is_left()
    command = "postgres -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200"
    with PostgresContainer(POSTGRES_IMAGE, driver=None).with_command(command) as container:
        yield container.get_connection_url()


@contextmanager
def docker_kafka() -> Iterator[str]:
    """Yield the bootstrap servers of one node; topics create themselves with `PARTITIONS` partitions.

    testcontainers' own Kafka is Confluent's image, which starts in another way than Apache's.
    """
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import ExecWaitStrategy

    reap_what_is_left()
    # The broker tells clients where it is, so the port is chosen before it starts.
    port = free_port()
    # Not from outside, where the engine accepts connections before the broker does.
    listens = ExecWaitStrategy(["bash", "-c", f"exec 3<>/dev/tcp/{LOOPBACK}/{KAFKA_PORT}"])
    container = (
        DockerContainer(KAFKA_IMAGE)
        .with_envs(**_kafka_settings(f"PLAINTEXT://{LOOPBACK}:{port}"))
        .with_bind_ports(KAFKA_PORT, port)
        .waiting_for(listens.with_startup_timeout(timedelta(seconds=READY_SECONDS)))
    )
    with container:
        yield f"{LOOPBACK}:{port}"


def _kafka_settings(advertised: str) -> dict[str, str]:
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{KAFKA_PORT},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": advertised,
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
        "KAFKA_NUM_PARTITIONS": str(PARTITIONS),
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": str(PARTITIONS),
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m",
    }


def reap_what_is_left() -> None:
    """Have testcontainers' reaper remove what a killed test run leaves, where the engine can run it."""
    from testcontainers.core.config import testcontainers_config

    if not docker_engine.can_run(testcontainers_config.ryuk_image):
        testcontainers_config.ryuk_disabled = True
