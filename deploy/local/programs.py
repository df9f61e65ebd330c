"""The programs of the suite, and the environment each of them runs in on one machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chassis.identity import new_key_pair
from deploy.local.children import LOOPBACK
from deploy.local.secret_files import SecretFiles

ADMIN_EMAIL = "admin@sagacity.example"
CUSTOMER_EMAIL = "customer@sagacity.example"
# What the simulated payment provider signs its webhooks with.
WEBHOOK_SECRET = "provider-webhook-secret"  # noqa: S105 - the name of a file
IDENTITIES = ("users", "inventory", "payments", "orders", "orchestrator", "gateway", "operator")


@dataclass(frozen=True)
class Program:
    """One process of the suite: `python -m module`, configured under the prefix SAGACITY_<prefix>_."""

    name: str
    module: str
    prefix: str
    default_port: int
    database: str | None = None
    package: str | None = None  # where its migrations are

    @property
    def identity(self) -> str:
        """The name it signs its calls with."""
        return self.prefix.lower()


USERS = Program("users", "services.users", "USERS", 50051, "users", "services.users")
INVENTORY = Program("inventory", "services.inventory", "INVENTORY", 50054, "inventory", "services.inventory")
PAYMENTS = Program("payments", "services.payments", "PAYMENTS", 50053, "payments", "services.payments")
ORDERS = Program("orders", "services.orders", "ORDERS", 50052, "orders", "services.orders")
ORCHESTRATOR = Program("orchestrator", "orchestrator", "ORCHESTRATOR", 50055, "sagas", "orchestrator")
GATEWAY = Program("gateway", "gateway", "GATEWAY", 8080)
SERVICES = (USERS, INVENTORY, PAYMENTS, ORDERS)
# In the order they start; they stop the other way round.
PROGRAMS = (*SERVICES, ORCHESTRATOR, GATEWAY)


def programs(orchestrators: int) -> tuple[Program, ...]:
    """Return the processes of a suite with so many orchestrators: orchestrator, orchestrator-2, ..."""
    more = (
        Program(f"orchestrator-{number}", "orchestrator", "ORCHESTRATOR", 0, "sagas", "orchestrator")
        for number in range(2, orchestrators + 1)
    )
    return (*SERVICES, ORCHESTRATOR, *more, GATEWAY)


@dataclass(frozen=True)
class Surroundings:
    """What the environments of all processes are made of."""

    secrets: SecretFiles
    ports: Mapping[str, int]  # process name → port
    metrics_ports: Mapping[str, int]
    dsn: Callable[[str], str]  # database → DSN of its service role
    kafka_bootstrap_servers: str
    log_format: str


def environment(program: Program, around: Surroundings) -> dict[str, str]:
    """Return the variables that `program` gets beside the supervisor's own."""
    own = f"SAGACITY_{program.prefix}"
    variables = {
        "SAGACITY_IDENTITY_KEYS_FILE": str(around.secrets.path("identity-keys.json")),
        "SAGACITY_KAFKA_BOOTSTRAP_SERVERS": around.kafka_bootstrap_servers,
        "SAGACITY_LOG_FORMAT": around.log_format,
        **{
            f"SAGACITY_{other.prefix}_ADDRESS": _address(other, around.ports)
            for other in PROGRAMS
            if other != GATEWAY
        },
        f"{own}_LISTEN": f"{LOOPBACK}:{around.ports[program.name]}",
        f"{own}_METRICS_LISTEN": f"{LOOPBACK}:{around.metrics_ports[program.name]}",
        f"{own}_IDENTITY_KEY_FILE": str(around.secrets.path(f"identity-{program.identity}.pem")),
    }
    if program.database:
        variables[f"{own}_DATABASE_DSN"] = around.dsn(program.database)
    if program == PAYMENTS:
        variables[f"{own}_SIMULATED_WEBHOOK_SECRET_FILE"] = str(around.secrets.path(WEBHOOK_SECRET))
    if program == USERS:
        variables |= {
            f"{own}_SIGNING_KEY_FILE": str(around.secrets.path("users-signing-key.pem")),
            f"{own}_BOOTSTRAP_ADMIN_EMAIL": ADMIN_EMAIL,
            f"{own}_BOOTSTRAP_ADMIN_PASSWORD_FILE": str(around.secrets.path("admin-password")),
        }
    return variables


def _address(program: Program, ports: Mapping[str, int]) -> str:
    """Return the gRPC target of all replicas of `program`."""
    replicas = [
        port for name, port in ports.items() if name == program.name or name.startswith(f"{program.name}-")
    ]
    addresses = ",".join(f"{LOOPBACK}:{port}" for port in replicas)
    return addresses if len(replicas) == 1 else f"ipv4:{addresses}"


def make_secrets(secrets: SecretFiles) -> None:
    """Make what is missing of the keys and passwords; what is there stays.

    Raises:
        LocalDeployError: the folder cannot be written.
    """
    for name in ("admin-password", "customer-password", WEBHOOK_SECRET):
        secrets.text(name)
    keys = []
    for name in IDENTITIES:
        public = secrets.path(f"identity-{name}.jwk.json")
        if not public.is_file():
            private_key, public_key = new_key_pair(name)
            secrets.write(f"identity-{name}.pem", _text(private_key))
            # Last: where it is there, both are.
            secrets.write(public.name, json.dumps(public_key))
        keys.append(json.loads(secrets.text(public.name)))
    secrets.write("identity-keys.json", json.dumps({"keys": keys}))
    secrets.text("users-signing-key.pem", lambda: _text(new_key_pair("users")[0]))


def _text(pem: str | bytes) -> str:
    return pem.decode("ascii") if isinstance(pem, bytes) else pem


def repository() -> Path:
    """Return the folder that the programs are started in."""
    return Path(__file__).resolve().parents[2]
