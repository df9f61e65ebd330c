"""A Kafka broker of our own: Apache Kafka on a JVM (real), or librdkafka's mock cluster (a convenience)."""

from __future__ import annotations

import contextlib
import fcntl
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from chassis.topics import RETENTION_MS
from deploy.local.children import LOOPBACK, dies_with_parent, free_port
from deploy.local.errors import LocalDeployError

POM = Path(__file__).with_name("apache_kafka") / "pom.xml"
PARTITIONS = 4
HEAP = "-Xmx512m"
FETCH_SECONDS = 600
FORMAT_SECONDS = 60
READY_SECONDS = 60
STOP_SECONDS = 30
POLL_SECONDS = 0.05


class _BrokerProcess:
    """What both brokers share: one child process, its log, and how it ends."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The broker's `host:port`; fixed from the first start on."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def stop(self) -> None:
        """End the broker in an orderly way, and by force after `STOP_SECONDS`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker at once, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, first: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(first)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout:
            process.stdout.close()
        self._process = None

    def _spawn(self, command: list[str], *, cwd: Path | None = None, stdout_piped: bool = False) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout_piped else log,
                stderr=log,
                # A Ctrl-C in the terminal is for the supervisor, which drains the relays first.
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - it makes one system call
            )

    def wait_ready(self) -> None:
        """Wait until the launched broker listens; raises LocalDeployError where it does not."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self._process is not None, "spawned before"
            if self._process.poll() is not None:
                raise LocalDeployError(f"the Kafka broker ended while it started; its log is {self.log}")
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1):
                return
            if time.monotonic() > deadline:
                self.kill()
                raise LocalDeployError(
                    f"the Kafka broker did not listen within {READY_SECONDS} s: see {self.log}"
                )
            time.sleep(POLL_SECONDS)


class ApacheKafka(_BrokerProcess):
    """Apache Kafka in KRaft mode, one node, on a JVM; topics create themselves with `PARTITIONS` partitions.

    Args:
        folder: the broker's data, configuration and log.
        port: 0 takes a free one at the first start and keeps it over restarts.
        jars: where the jars are kept, and fetched to where missing. Default: `folder`/kafka-jars.
    """

    def __init__(self, folder: Path, port: int = 0, *, jars: Path | None = None) -> None:
        super().__init__(folder.absolute() / "kafka.log")
        self.port = port
        self._folder = folder.absolute()
        self._jars = (jars or folder / "kafka-jars").absolute()
        self._controller_port = 0

    def start(self) -> None:
        """Fetch what is missing, format the storage the first time, start the broker, wait until it listens.

        Raises:
            LocalDeployError: no Java, no jars, or the broker does not come up.
        """
        self.prepare()
        self.launch()
        self.wait_ready()

    def prepare(self) -> None:
        """Fetch the jars and format the storage where either is missing."""
        fetch_jars(self._jars)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        self._controller_port = self._controller_port or free_port()
        text = "".join(f"{name}={value}\n" for name, value in self.properties().items())
        self._properties.write_text(text, "utf-8")
        if not (self._data / "meta.properties").is_file():
            command = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_UUID, "-c", str(self._properties)]
            command += self.format_options()
            done = subprocess.run(  # noqa: S603 - our own command
                self._java(*command), capture_output=True, check=False, timeout=FORMAT_SECONDS
            )
            if done.returncode != 0:
                said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
                raise LocalDeployError(f"Kafka's storage in {self._data} cannot be formatted: {said[-1:]}")

    def launch(self) -> None:
        """Start the broker's process without waiting for it."""
        self._spawn(self._java("kafka.Kafka", str(self._properties)), cwd=self._folder)

    @property
    def _data(self) -> Path:
        return self._folder / "kafka-data"

    @property
    def _properties(self) -> Path:
        return self._folder / "server.properties"

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise LocalDeployError("Apache Kafka needs Java 17 or later: no java on PATH")
        return [java, HEAP, "-XX:+UseSerialGC", "-cp", f"{self._jars}/*", main_class, *arguments]

    def format_options(self) -> list[str]:
        """What the storage is formatted with beside its id; none, unless somebody wants more."""
        return []

    def properties(self) -> dict[str, object]:
        """The broker's configuration, in the clear; somebody who wants another one adds to it."""
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "log.dirs": self._data,
            "num.partitions": PARTITIONS,
            "log.retention.ms": RETENTION_MS,
            "auto.create.topics.enable": "true",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": PARTITIONS,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            # One node and no peers to wait for: without these every first consumer waits three seconds.
            "group.initial.rebalance.delay.ms": 0,
            "controlled.shutdown.enable": "false",
            # The controller takes a killed broker back only when its old session has run out.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
        }


# Kafka wants the cluster's id as 16 bytes in URL-safe base64.
_CLUSTER_UUID = "c2FnYWNpdHktbG9jYWxfMQ"


def fetch_jars(folder: Path) -> None:
    """Fill `folder` with the jars that deploy/local/apache_kafka/pom.xml names, unless they are there.

    Raises:
        LocalDeployError: Maven is missing or cannot get them.
    """
    stamp = folder / "complete"
    if stamp.is_file() and stamp.read_bytes() == POM.read_bytes():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_suffix(".lock")):
        if stamp.is_file() and stamp.read_bytes() == POM.read_bytes():
            return
        maven = shutil.which("mvn")
        if maven is None:
            raise LocalDeployError("Apache Kafka's jars are fetched with Maven: no mvn on PATH")
        shutil.rmtree(folder, ignore_errors=True)
        command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, "-DincludeScope=runtime", f"-DoutputDirectory={folder}"],
            capture_output=True,
            check=False,
            timeout=FETCH_SECONDS,
        )
        if done.returncode != 0:
            said = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise LocalDeployError(f"Maven could not fetch Apache Kafka: {said[0]}")
        stamp.write_bytes(POM.read_bytes())


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold `lock`, so that two test runs of one checkout do not fetch into one folder."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class EmbeddedBroker(_BrokerProcess):
    """librdkafka's mock cluster in a child process: speaks Kafka, keeps nothing on disk, no guarantees.

    One consumer per group; topics create themselves with `PARTITIONS` partitions. Its port is a new one after
    every start. `log` gets what it says.
    """

    def start(self) -> None:
        """Start the broker and wait until it tells its port.

        Raises:
            LocalDeployError: it does not within `READY_SECONDS`.
        """
        self.prepare()
        self.launch()
        self.wait_ready()

    def prepare(self) -> None:
        """Nothing to do: this broker keeps nothing."""

    def launch(self) -> None:
        """Start the broker's process without waiting for it."""
        self._spawn([sys.executable, "-m", "deploy.local.embedded_broker"], stdout_piped=True)

    @override
    def wait_ready(self) -> None:
        assert self._process is not None, "launched before"
        assert self._process.stdout is not None, "launched with a pipe"
        readable, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        line = self._process.stdout.readline().strip() if readable else b""
        if not line.isdigit():
            self.kill()
            raise LocalDeployError(f"the embedded broker did not start; its log is {self.log}")
        self.port = int(line)


class ForeignBroker:
    """A broker that is somebody else's: nothing to start, nothing to stop."""

    pid: int | None = None

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    def prepare(self) -> None:
        """Nothing to do."""

    def launch(self) -> None:
        """Nothing to do."""

    def wait_ready(self) -> None:
        """Nothing to wait for: relays and consumers come back by themselves when a broker does."""

    def stop(self) -> None:
        """Nothing to do."""

    def kill(self) -> None:
        """Nothing to do."""


Broker = ApacheKafka | EmbeddedBroker | ForeignBroker
