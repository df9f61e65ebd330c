"""The containers of deploy/compose.yaml as a project of their own, and what a test does to them.

To the customers and the checks of tests/e2e it looks like the suite on one machine. The networks of the
databases and of Kafka publish nothing, so these are reached by the addresses of their containers: on Linux,
where the engine's bridges are the host's.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from psycopg.conninfo import make_conninfo

from deploy.compose.make_secrets import make_all
from deploy.local.children import LOOPBACK, free_port
from tests import docker_engine
from tests.e2e.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
STAND_INS = ROOT / "tests" / "compose" / "stand_ins" / "make.sh"
ROLL = ROOT / "deploy" / "compose" / "roll.sh"
BUILD_SECONDS = 1800
# Eight containers and five migrations on a small machine.
ROLL_SECONDS = 1200
COMMAND_SECONDS = 600
UP_SECONDS = 400
HEALTHY_SECONDS = 180.0
TAG = "test"
IMAGE = f"sagacity:{TAG}"
# Another name for the same image: to the engine another release.
NEXT_TAG = "test-next"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
STANDING = tuple(
    name for name, service in SERVICES.items() if service["restart"] != "no" and "profiles" not in service
)
PROCESSES = tuple(name for name in STANDING if SERVICES[name]["image"].startswith("sagacity:"))
# What is named by make.sh, and by the image that it stands for.
STAND_IN_OF = {"python": "python", "postgres": "postgres", "apache/kafka": "kafka", "haproxy": "haproxy"}
KAFKA = "kafka"


def base_image() -> str:
    """Return the image that ours is built on."""
    lines = (ROOT / "deploy" / "Dockerfile").read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("ARG PYTHON_IMAGE=")).partition("=")[2]


def prepare_images() -> None:
    """Have all images: others' pulled, or made as stand-ins where they cannot be; ours built."""
    needed = {base_image(), *(SERVICES[name]["image"] for name in STANDING)} - {_template(IMAGE)}
    missing = [image for image in sorted(needed) if not docker_engine.can_run(image)]
    if missing:
        kinds = [STAND_IN_OF[image.partition(":")[0]] for image in missing]
        run([str(STAND_INS), *kinds], seconds=BUILD_SECONDS)
    run(["make", "--no-print-directory", "image", f"TAG={TAG}"], seconds=BUILD_SECONDS)
    run(["docker", "tag", IMAGE, f"sagacity:{NEXT_TAG}"])


def _template(image: str) -> str:
    return image.replace(f":{TAG}", ":${SAGACITY_TAG:-local}")


def run(command: list[str], *, seconds: float = COMMAND_SECONDS, **variables: str) -> str:
    """Run a command in the repository and return what it said; AssertionError where it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},  # noqa: TID251 - the commands' own: PATH, DOCKER_HOST
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-4000:]}"
    return done.stdout


def inspect(kind: str, name: str) -> dict[str, Any]:
    """Return what the engine knows of an image or a container."""
    return dict(json.loads(run(["docker", kind, "inspect", name]))[0])


class Stack:
    """One project: containers, networks, volumes and secrets of its own.

    Args:
        folder: where the secrets are made.
    """

    def __init__(self, folder: Path) -> None:
        self.project = f"sagacity-test-{os.getpid()}"
        self.secrets = make_all(folder / "secrets")
        self.port = free_port()
        self.tag = TAG
        self.broker = SimpleNamespace(bootstrap_servers=f"{KAFKA}:9092")

    # as tests/e2e know a suite

    @property
    def gateway_url(self) -> str:
        """The proxy's URL."""
        return f"http://{LOOPBACK}:{self.port}"

    def password(self, login: str) -> str:
        """Return the password of the admin."""
        return self.secrets.text(f"{login}-password")

    def dsn(self, database: str) -> str:
        """Return the DSN of a database's service role, as it is reached now."""
        dsn = self.secrets.text(f"{database}_service-dsn")
        return make_conninfo(dsn, hostaddr=self.address(f"{database}-database"))

    # the whole

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run `docker compose` on the project; AssertionError with its errors where it fails."""
        return run([*self._command(), *arguments], seconds=seconds, **self._variables())

    def _command(self) -> list[str]:
        return ["docker", "compose", "--project-name", self.project, "--file", str(FILE)]

    def _variables(self) -> dict[str, str]:
        return {
            "SAGACITY_TAG": self.tag,
            "SAGACITY_PORT": str(self.port),
            "SAGACITY_SECRETS": str(self.secrets.folder),
        }

    def up(self, *services: str, recreate: bool = False) -> None:
        """Start all containers, or some without what they depend on, and wait until they are healthy."""
        which = ["--no-deps", *(["--force-recreate"] if recreate else []), *services] if services else []
        wait = ["--detach", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS)]
        self.compose("up", *wait, *which)

    def roll(self, tag: str, *, back: bool = False) -> None:
        """Make our processes anew with another image, as `make roll` and `make roll-back` do."""
        self.tag = tag
        variables = self._variables()
        # Nobody has to say it again: the proxy stays on the port where it is.
        del variables["SAGACITY_PORT"]
        run([str(ROLL), "back" if back else "forward", *self._command()], seconds=ROLL_SECONDS, **variables)

    def down(self, *, volumes: bool) -> None:
        """Stop and remove the containers, and their data if `volumes`."""
        # Of every profile: without them their networks and volumes stay.
        self.compose("--profile", "*", "down", "--remove-orphans", *(["--volumes"] if volumes else []))

    # one container

    def container(self, service: str) -> str:
        """Return the container's id, also of one that does not run."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def address(self, service: str) -> str:
        """Return the container's address in one of its networks; ConnectionError while it has none."""
        networks = inspect("container", self.container(service))["NetworkSettings"]["Networks"]
        found = [str(network["IPAddress"]) for network in networks.values() if network["IPAddress"]]
        if not found:
            raise ConnectionError(f"{service} has no address")
        return found[0]

    def state(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of the container's process and health."""
        container = inspect("container", self.container(service))
        return {**container["State"], "RestartCount": container["RestartCount"]}

    def execute(self, service: str, *command: str) -> str:
        """Run a command in the container; AssertionError where it fails."""
        return self.compose("exec", "-T", service, *command)

    def crash(self, service: str) -> None:
        """Kill the container's process behind the engine's back, so that it is a crash and no wish."""
        pid = str(self.state(service)["Pid"])
        kill = ["python", "-c", "import os, sys; os.kill(int(sys.argv[1]), 9)", pid]
        run(["docker", "run", "--rm", "--pid", "host", "--user", "0", "--cap-add", "KILL", IMAGE, *kill])

    async def healthy(self, service: str, *, restarts: int) -> None:
        """Wait until the container is healthy and the engine has restarted it so many times at least."""

        async def state() -> dict[str, Any]:
            return await asyncio.to_thread(self.state, service)

        await eventually(
            state,
            until=lambda now: now["RestartCount"] >= restarts and now["Health"]["Status"] == "healthy",
            within_seconds=HEALTHY_SECONDS,
        )

    # names

    @contextmanager
    def names(self) -> Iterator[None]:
        """Let this process know Kafka by the name that it tells clients, as the engine's DNS does inside."""
        resolve: Callable[..., Any] = socket.getaddrinfo

        def resolve_here(host: Any, *arguments: Any, **options: Any) -> Any:
            return resolve(self.address(KAFKA) if host == KAFKA else host, *arguments, **options)

        socket.getaddrinfo = resolve_here
        try:
            yield
        finally:
            socket.getaddrinfo = resolve
