"""The rules that deploy/compose.yaml keeps; that it works is shown by `make test-compose`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG

from chassis import tracing
from chassis.config import ProcessSettings, variables
from chassis.lifecycle import DRAIN_ALL_SECONDS
from cli.connection import KEY_VARIABLE
from deploy.compose.make_secrets import make_all
from gateway.config import GatewaySettings
from orchestrator.config import OrchestratorSettings
from services.inventory.config import InventorySettings
from services.orders.config import OrdersSettings
from services.payments.config import PaymentsSettings
from services.users.config import UsersSettings
from tests.docker_servers import KAFKA_IMAGE, POSTGRES_IMAGE

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MIGRATIONS = {name for name in SERVICES if name.endswith("-migrations")}
ONE_SHOTS = MIGRATIONS | {"operator"}
STANDING = SERVICES.keys() - ONE_SHOTS
# Nothing is relied on in their images that could ask them: Prometheus scrapes these two instead
# (test_compose_configuration.py), and the alert SagacityTargetDown sees them.
WITHOUT_HEALTH_CHECK = {"otel-collector", "jaeger"}
DATABASES = {name for name in SERVICES if name.endswith("-database")}
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("sagacity:")}
PROCESSES: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "orchestrator": OrchestratorSettings,
    "services.users": UsersSettings,
    "services.orders": OrdersSettings,
    "services.payments": PaymentsSettings,
    "services.inventory": InventorySettings,
}
# Containers that answer on the host, each on the loopback only.
PUBLISHED = {"proxy", "prometheus", "grafana", "jaeger", "locust"}
# Networks from which the world can be reached.
OPEN_NETWORKS = {"front", "consoles"}


def networks(name: str) -> set[str]:
    return set(SERVICES[name]["networks"])


def environment(name: str) -> dict[str, str]:
    return dict(SERVICES[name].get("environment", {}))


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s", text)
    assert match, text
    return int(match.group(1))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_hardened_and_has_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert service["networks"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_containers_log_is_rotated(name: str) -> None:
    logging = SERVICES[name]["logging"]
    assert logging["driver"] == "json-file"
    assert {"max-size", "max-file"} == logging["options"].keys()


@pytest.mark.parametrize("name", sorted(STANDING))
def test_what_stands_is_restarted_and_asked_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert "stop_grace_period" in service
    if name in WITHOUT_HEALTH_CHECK:
        # Not one that is disabled either: `docker compose up --wait` fails on that.
        assert "healthcheck" not in service
        return
    check = service["healthcheck"]
    assert {"test", "interval", "timeout", "retries", "start_period"} == check.keys()


@pytest.mark.parametrize("name", sorted(MIGRATIONS))
def test_a_migration_runs_once_as_the_owner_and_before_its_service(name: str) -> None:
    context = name.removesuffix("-migrations")
    service = SERVICES[name]
    assert service["restart"] == "no"
    assert service["secrets"] == [f"{context}_owner-dsn"]
    assert service["depends_on"] == {f"{context}-database": {"condition": "service_healthy"}}
    waiting = {
        other
        for other, wanted in SERVICES.items()
        if wanted.get("depends_on", {}).get(name) == {"condition": "service_completed_successfully"}
    }
    assert waiting == ({"orchestrator-1", "orchestrator-2"} if context == "sagas" else {context})


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_pinned_by_a_tag_that_does_not_move_to_another_release(name: str) -> None:
    tag = SERVICES[name]["image"].partition(":")[2]
    if SERVICES[name]["image"].startswith("sagacity"):
        assert tag == "${SAGACITY_TAG:-local}"
    else:
        assert re.match(r"v?\d+\.\d+", tag), tag


def test_the_tests_run_on_the_images_that_are_deployed() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert {POSTGRES_IMAGE, KAFKA_IMAGE} <= images


def test_ports_are_published_on_the_loopback_and_by_the_proxy_alone_without_profiles() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == PUBLISHED
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)
    assert {name for name in published if "profiles" not in SERVICES[name]} == {"proxy"}


def test_only_what_publishes_a_port_is_in_a_network_that_reaches_the_world() -> None:
    assert {
        name for name, network in COMPOSE["networks"].items() if not network.get("internal")
    } == OPEN_NETWORKS
    assert {name for name in SERVICES if networks(name) & OPEN_NETWORKS} == PUBLISHED


@pytest.mark.parametrize("name", sorted(DATABASES))
def test_a_database_is_reached_by_its_migrations_and_its_service_alone(name: str) -> None:
    context = name.removesuffix("-database")
    assert networks(name) == {name}
    users = {"orchestrator-1", "orchestrator-2"} if context == "sagas" else {context}
    assert {other for other in SERVICES if name in networks(other)} == {
        name,
        f"{context}-migrations",
        *users,
    }


def test_both_orchestrators_answer_to_one_name() -> None:
    for name in ("orchestrator-1", "orchestrator-2"):
        assert SERVICES[name]["networks"]["rpc"] == {"aliases": ["orchestrator"]}
        assert environment(name)["SAGACITY_ORCHESTRATOR_ADDRESS"] == "dns:///orchestrator:50055"


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_container_of_ours_waits_for_its_drain_before_it_is_killed(name: str) -> None:
    assert seconds(SERVICES[name]["stop_grace_period"]) > DRAIN_ALL_SECONDS


def test_the_operators_command_starts_only_when_it_is_asked_for() -> None:
    operator = SERVICES["operator"]
    assert (operator["restart"], operator["profiles"]) == ("no", ["operator"])
    assert environment("operator")[KEY_VARIABLE] == "/run/secrets/identity-operator.pem"


@pytest.mark.parametrize("name", sorted(OURS - {"operator"}))
def test_every_variable_is_one_that_the_settings_of_the_process_know(name: str) -> None:
    module, package = SERVICES[name]["command"][2], SERVICES[name]["command"][-1]
    settings = PROCESSES[package if module == "chassis.migrations" else module]
    known = {
        variable for field in settings.model_fields for variable in variables(settings.process, field)
    } | {tracing.ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG}
    known |= {f"{variable}_FILE" for variable in known}
    assert environment(name).keys() - known == set()


@pytest.mark.parametrize("name", sorted(OURS - ONE_SHOTS))
def test_a_process_has_what_it_cannot_do_without(name: str) -> None:
    settings = PROCESSES[SERVICES[name]["command"][2]]
    own = settings.process.upper()
    needed = {"SAGACITY_IDENTITY_KEYS_FILE", f"SAGACITY_{own}_LISTEN", f"SAGACITY_{own}_METRICS_LISTEN"}
    if settings is not GatewaySettings:
        needed |= {f"SAGACITY_{own}_DATABASE_DSN_FILE"}
    if settings in {GatewaySettings, OrchestratorSettings, OrdersSettings}:
        needed |= {f"SAGACITY_{own}_IDENTITY_KEY_FILE"}
    assert needed <= environment(name).keys()


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    else:
        yield str(node)


def test_no_secret_is_in_it_and_every_password_is_a_file(tmp_path: Path) -> None:
    secrets = make_all(tmp_path / "secrets")
    values = {path.read_text("utf-8") for path in secrets.folder.iterdir()}
    assert values.isdisjoint(texts(COMPOSE))
    for name in SERVICES:
        for variable, value in environment(name).items():
            if re.search(r"PASSWORD|SECRET|SIGNING_KEY|DSN|IDENTITY_KEY", variable):
                assert re.search(r"_FILE$", variable), variable
                assert str(value).startswith("/run/secrets/")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_names_the_secrets_that_it_is_given_and_no_other(name: str) -> None:
    given = set(SERVICES[name].get("secrets", []))
    named = {
        value.removeprefix("/run/secrets/")
        for value in environment(name).values()
        if str(value).startswith("/run/secrets/")
    }
    # The roles' passwords are read by create-roles.sql.
    context = name.removesuffix("-database")
    by_script = {f"{context}_owner-password", f"{context}_service-password"} if name in DATABASES else set()
    assert given == named | by_script


def test_every_secret_is_declared_used_and_made(tmp_path: Path) -> None:
    declared = COMPOSE["secrets"]
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == declared.keys()
    folder = make_all(tmp_path / "secrets").folder
    for name, secret in declared.items():
        assert secret == {"file": f"${{SAGACITY_SECRETS:-./secrets}}/{name}"}
        assert (folder / name).is_file()


def test_every_file_and_volume_that_is_mounted_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert volume.endswith(":ro"), volume
                assert (FILE.parent / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]


def test_every_network_and_volume_is_used() -> None:
    assert {network for name in SERVICES for network in networks(name)} == COMPOSE["networks"].keys()
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert COMPOSE["volumes"].keys() <= mounted


@pytest.mark.parametrize("name", sorted(OURS - ONE_SHOTS))
def test_a_process_is_asked_on_the_port_that_it_listens_on(name: str) -> None:
    listen = next(value for key, value in environment(name).items() if re.search(r"[A-Z]_LISTEN$", key))
    port = listen.rpartition(":")[2]
    assert f"127.0.0.1:{port}" in " ".join(SERVICES[name]["healthcheck"]["test"])
