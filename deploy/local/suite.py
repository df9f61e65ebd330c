"""The whole suite as child processes of this one: PostgreSQL, broker, services, orchestrator, gateway."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO

from chassis.migrations import upgrade
from deploy.local.children import LOOPBACK, free_port, port_is_free
from deploy.local.errors import LocalDeployError
from deploy.local.kafka import ApacheKafka, Broker, EmbeddedBroker, ForeignBroker
from deploy.local.postgres import Access, LocalPostgres
from deploy.local.processes import ChildProcess
from deploy.local.programs import (
    GATEWAY,
    PROGRAMS,
    Program,
    Surroundings,
    environment,
    make_secrets,
    programs,
    repository,
)
from deploy.local.readiness import died, grpc_probe, http_probe, wait_until_ready
from deploy.local.sample_data import load_sample_data
from deploy.local.secret_files import SecretFiles

DRAIN_SECONDS = 20
WATCH_SECONDS = 0.2
EMBEDDED = "embedded"
MAVEN = "maven"
BROKER_FILE = "kafka-bootstrap-servers"

Environment = Mapping[str, str]


def _silent(_: str) -> None:
    pass


class Suite:
    """Everything Sagacity needs on one machine, with its data below `data_dir`.

    Start it on a thread that lives as long as it does: the children die with that thread.

    Args:
        data_dir: databases, secrets, logs; one suite at a time may use it.
        ports: of the processes by name; those not named take free ones and keep them.
        kafka: `embedded`, `maven`, or the `host:port` of a broker; "" runs without one.
        orchestrators: how many; the second is called orchestrator-2.
        standby: processes that have an address and are not started with the others.
        overrides: environment variables by process name, over the suite's own; "*" is for every process.
        log_format: console or json.
        sample_data: load the sample data at the first start.
        fsync: False only where the data may be lost with the machine (tests).
        jars: where Apache Kafka's jars are cached, for `maven`; default `data_dir`/kafka-jars.
        migrate: brings a package's database (its owner's DSN) to the schema that the start begins with.
        report: called with each step of the start, as one line.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Mapping[str, int] | None = None,
        kafka: str = EMBEDDED,
        orchestrators: int = 1,
        standby: Collection[str] = (),
        overrides: Mapping[str, Environment] | None = None,
        log_format: str = "console",
        sample_data: bool = True,
        fsync: bool = True,
        jars: Path | None = None,
        migrate: Callable[[str, str], None] = upgrade,
        report: Callable[[str], None] = _silent,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.logs = self.data_dir / "logs"
        self.secrets = SecretFiles(self.data_dir / "secrets")
        self.overrides: dict[str, dict[str, str]] = {
            name: dict(more) for name, more in (overrides or {}).items()
        }
        self.postgres = LocalPostgres(self.data_dir / "postgres", fsync=fsync, secrets=self.secrets)
        self.broker = self._new_broker(kafka, jars)
        self._programs = {program.name: program for program in programs(orchestrators)}
        self._standby = frozenset(standby)
        self._fixed_ports = {name: port for name, port in (ports or {}).items() if port}
        self._ports: dict[str, int] = {}
        self._metrics_ports: dict[str, int] = {}
        self._access: dict[str, Access] = {}
        self._log_format = log_format
        self._sample_data = sample_data
        self._migrate_one = migrate
        self._report = report
        self._lock: IO[str] | None = None
        self._processes = {
            name: ChildProcess(name, program.module, self.logs / f"{name}.log", repository())
            for name, program in self._programs.items()
        }

    def _new_broker(self, kafka: str, jars: Path | None) -> Broker:
        if kafka == EMBEDDED:
            return EmbeddedBroker(self.logs / "broker.log")
        if kafka == MAVEN:
            return ApacheKafka(self.data_dir / "kafka", jars=jars or self.data_dir / "kafka-jars")
        return ForeignBroker(kafka)

    # --- the whole

    async def start(self) -> None:
        """Start everything and wait until it is ready; where that fails, nothing is left running.

        Raises:
            LocalDeployError: what is in the way, as one sentence.
        """
        try:
            await self._start()
        except BaseException:
            await self.abort()
            raise

    async def _start(self) -> None:
        self._take_folder()
        self._choose_ports()
        self._report("keys and passwords")
        make_secrets(self.secrets)
        await self._start_servers()
        self._report("databases and migrations")
        await asyncio.to_thread(self._migrate)
        self._report(f"starting {', '.join(self.standing)}")
        for name in self.standing:
            self.start_process(name)
        for name in self.standing:
            await self.wait_ready(name)
            self._report(f"{name} is ready on {self.address(name)}")
        marker = self.data_dir / "sample-data-is-loaded"
        if self._sample_data and not marker.exists():
            self._report("sample data")
            await load_sample_data(self.gateway_url, self.password("admin"), self.password("customer"))
            marker.touch()

    async def _start_servers(self) -> None:
        self._report("PostgreSQL and broker")
        await asyncio.gather(asyncio.to_thread(self.postgres.prepare), asyncio.to_thread(self.broker.prepare))
        # Launched from this thread, and not from one of the pool: they die with the thread that started them.
        self.postgres.launch()
        self.broker.launch()
        await asyncio.gather(
            asyncio.to_thread(self.postgres.wait_ready), asyncio.to_thread(self.broker.wait_ready)
        )
        self._report(f"PostgreSQL is ready on {LOOPBACK}:{self.postgres.port}")
        self._report(f"broker: {self.broker.bootstrap_servers or 'none'}")
        # For `sagacity events tail`: the embedded broker is somewhere else after every start.
        (self.data_dir / BROKER_FILE).write_text(self.broker.bootstrap_servers, "utf-8")

    async def stop(self) -> None:
        """Stop everything, each drained: gateway, orchestrators, services, broker, PostgreSQL."""
        names = list(reversed(self._programs))
        order = [
            [name for name in names if name == GATEWAY.name],
            [name for name in names if self._programs[name].prefix == "ORCHESTRATOR"],
            [name for name in names if self._programs[name].module.startswith("services.")],
        ]
        for together in order:
            running = [name for name in together if self._processes[name].pid is not None]
            ended = await asyncio.gather(*(self._processes[name].stop(DRAIN_SECONDS) for name in running))
            for name, by_itself in zip(running, ended, strict=True):
                self._report(f"{name} has stopped" if by_itself else f"{name} did not stop and was killed")
        await asyncio.to_thread(self.broker.stop)
        await asyncio.to_thread(self.postgres.stop)
        self._report("broker and PostgreSQL have stopped")
        self._leave_folder()

    async def abort(self) -> None:
        """End everything at once, without draining; only PostgreSQL shuts down in an orderly way."""
        for process in self._processes.values():
            process.kill()
        self.broker.kill()
        await asyncio.to_thread(self.postgres.stop)
        self._leave_folder()

    def kill_everything(self) -> None:
        """End everything at once, PostgreSQL too, which recovers at the next start."""
        for process in self._processes.values():
            process.kill()
        self.broker.kill()
        self.postgres.kill()
        self._leave_folder()

    async def first_death(self) -> str:
        """Wait until a process or server that should run has ended; return the sentence that says so."""
        while True:
            for process in self._processes.values():
                if process.exit_code is not None:
                    return died(process)
            if self.postgres.pid is None:
                return f"PostgreSQL ended; its log is {self.postgres.log}"
            if self.broker.pid is None and not isinstance(self.broker, ForeignBroker):
                return f"the broker ended; its log is {self.broker.log}"
            await asyncio.sleep(WATCH_SECONDS)

    # --- one process

    def start_process(self, name: str, extra: Environment | None = None) -> None:
        """Start the process `name`, with `extra` in its environment this once; it is not ready yet."""
        around = Surroundings(
            secrets=self.secrets,
            ports=self._ports,
            metrics_ports=self._metrics_ports,
            dsn=lambda database: self._access[database].service_dsn,
            kafka_bootstrap_servers=self.broker.bootstrap_servers,
            log_format=self._log_format,
        )
        more = {**self.overrides.get("*", {}), **self.overrides.get(name, {}), **(extra or {})}
        self._processes[name].start({**environment(self._programs[name], around), **more})

    async def wait_ready(self, name: str) -> None:
        """Wait until the process `name` says that it is ready; LocalDeployError where it does not."""
        is_gateway = name == GATEWAY.name
        probe = http_probe(f"{self.gateway_url}/readyz") if is_gateway else grpc_probe(self.address(name))
        await wait_until_ready(self._processes[name], probe)

    async def restart(self, name: str, extra: Environment | None = None) -> None:
        """Stop the process `name` in an orderly way where it runs, start it and wait until it is ready."""
        await self.stop_process(name)
        self.start_process(name, extra)
        await self.wait_ready(name)

    async def stop_process(self, name: str) -> None:
        """Stop the process `name` in an orderly way, by force after `DRAIN_SECONDS`."""
        await self._processes[name].stop(DRAIN_SECONDS)

    def kill(self, name: str) -> None:
        """End the process `name` at once (SIGKILL)."""
        self._processes[name].kill()

    def pause(self, name: str) -> None:
        """Freeze the process `name` (SIGSTOP)."""
        self._processes[name].send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let the paused process `name` go on (SIGCONT)."""
        self._processes[name].send(signal.SIGCONT)

    def process(self, name: str) -> ChildProcess:
        """Return the process `name`: its pid, exit code and log."""
        return self._processes[name]

    # --- where things are

    @property
    def names(self) -> tuple[str, ...]:
        """The processes' names, in the order they start."""
        return tuple(self._programs)

    @property
    def standing(self) -> tuple[str, ...]:
        """The names of those that run all the time, in the order they start."""
        return tuple(name for name in self._programs if name not in self._standby)

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what runs, PostgreSQL and broker among them."""
        found = {name: process.pid for name, process in self._processes.items()}
        found |= {"postgres": self.postgres.pid, "broker": self.broker.pid}
        return {name: pid for name, pid in found.items() if pid is not None}

    @property
    def gateway_url(self) -> str:
        """The gateway's base URL, without a slash at its end."""
        return f"http://{self.address(GATEWAY.name)}"

    def address(self, name: str) -> str:
        """Return the `host:port` that the process `name` serves on."""
        return f"{LOOPBACK}:{self._ports[name]}"

    def metrics_url(self, name: str) -> str:
        """Return where the process `name` shows its metrics."""
        return f"http://{LOOPBACK}:{self._metrics_ports[name]}/metrics"

    def dsn(self, database: str) -> str:
        """Return the owner's DSN of `database`: users, inventory, payments, orders or sagas."""
        return self._access[database].owner_dsn

    def password(self, who: str) -> str:
        """Return the password of the sample login `who`: admin or customer."""
        return self.secrets.text(f"{who}-password")

    # --- pieces of the start

    def _take_folder(self) -> None:
        try:
            # Others may pass through (PostgreSQL may run as nobody) and see nothing; logs are their owner's.
            self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self._lock = (self.data_dir / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise LocalDeployError(
                f"the data folder {self.data_dir} cannot be used: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._leave_folder()
            raise LocalDeployError(
                f"another Sagacity runs on {self.data_dir}; stop it, or choose another folder with --data-dir"
            ) from None

    def _leave_folder(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _choose_ports(self) -> None:
        for name in self._programs:
            fixed = self._fixed_ports.get(name)
            if fixed and not port_is_free(fixed):
                option = "--port" if name == GATEWAY.name else "--grpc-port"
                raise LocalDeployError(
                    f"port {fixed}, which is for {name}, is taken; free it or choose another with {option} "
                    f"(0 takes any free one)"
                )
            self._ports.setdefault(name, fixed or free_port())
            self._metrics_ports.setdefault(name, free_port())

    def _migrate(self) -> None:
        migrated: dict[str, Program] = {p.database: p for p in PROGRAMS if p.database}
        for database, program in migrated.items():
            self._access[database] = self.postgres.create_database(database)
            assert program.package is not None, "what has a database has migrations"
            try:
                self._migrate_one(program.package, self._access[database].owner_dsn)
            except Exception as error:
                raise LocalDeployError(f"the migrations of {program.package} failed: {error}") from error
