"""Compose 1.29 reads deploy/compose.yaml: it has no key that 1.29 refuses.

What 1.29 knows is what its own schema has (config/compose_spec.json), as far as it could be used here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[3] / "deploy" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
TOP = {"configs", "networks", "secrets", "services", "version", "volumes"}
SERVICE = {
    "cap_add",
    "cap_drop",
    "command",
    "configs",
    "cpus",
    "depends_on",
    "devices",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "labels",
    "logging",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "networks",
    "pid",
    "pids_limit",
    "ports",
    "privileged",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "secrets",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "tmpfs",
    "ulimits",
    "user",
    "volumes",
    "working_dir",
}
PARTS = {
    "healthcheck": {"disable", "interval", "retries", "start_period", "test", "timeout"},
    "logging": {"driver", "options"},
}
NETWORK_OF_A_SERVICE = {"aliases", "ipv4_address", "ipv6_address", "link_local_ips", "priority"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
TOP_PARTS = {
    "networks": {"attachable", "driver", "driver_opts", "external", "internal", "ipam", "labels"},
    "volumes": {"driver", "driver_opts", "external", "labels", "name"},
    "secrets": {"driver", "driver_opts", "external", "file", "labels", "name", "template_driver"},
}
SHORT_FORMS = ("ports", "volumes", "secrets", "tmpfs")


def unknown(compose: dict[str, Any]) -> Iterator[str]:
    """Yield the place of every key that Compose 1.29 does not know."""
    yield from (key for key in compose if key not in TOP and not key.startswith("x-"))
    for kind, known in TOP_PARTS.items():
        for name, part in compose[kind].items():
            yield from newer(f"{kind}.{name}", part, known)
    for name, service in compose["services"].items():
        yield from newer(name, service, SERVICE)
        yield from unknown_in_parts(name, service)


def unknown_in_parts(name: str, service: dict[str, Any]) -> Iterator[str]:
    for kind, known in PARTS.items():
        yield from newer(f"{name}.{kind}", service.get(kind), known)
    networks = service["networks"]
    for network in networks if isinstance(networks, dict) else {}:
        yield from newer(f"{name}.networks.{network}", networks[network], NETWORK_OF_A_SERVICE)
    for other, wanted in service.get("depends_on", {}).items():
        yield from newer(f"{name}.depends_on.{other}", wanted, {"condition"})
        if wanted["condition"] not in CONDITIONS:
            yield f"{name}.depends_on.{other}.condition"
    # The long form of these has keys that are newer; the short one has none.
    for kind in SHORT_FORMS:
        yield from (f"{name}.{kind}" for part in service.get(kind, []) if not isinstance(part, str))


def newer(place: str, part: dict[str, Any] | None, known: set[str]) -> Iterator[str]:
    yield from (f"{place}.{key}" for key in part or {} if key not in known)


def test_compose_1_29_knows_every_key() -> None:
    assert list(unknown(COMPOSE)) == []


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("name",), "sagacity", "name"),
        (("include",), ["other.yaml"], "include"),
        (("services", "users", "develop"), {"watch": []}, "users.develop"),
        (("services", "users", "post_start"), [], "users.post_start"),
        (
            ("services", "users", "depends_on", "users-migrations", "restart"),
            True,
            "users.depends_on.users-migrations.restart",
        ),
        (
            ("services", "users", "depends_on", "users-migrations", "required"),
            False,
            "users.depends_on.users-migrations.required",
        ),
        (
            ("services", "users", "healthcheck", "start_interval"),
            "1s",
            "users.healthcheck.start_interval",
        ),
        (("services", "users", "ports"), [{"target": 1, "app_protocol": "http"}], "users.ports"),
        (("secrets", "admin-password", "environment"), "X", "secrets.admin-password.environment"),
    ],
)
def test_a_key_that_is_newer_is_found(path: tuple[str, ...], value: object, place: str) -> None:
    planted = copy.deepcopy(COMPOSE)
    *folders, key = path
    node = planted
    for folder in folders:
        node = node[folder]
    node[key] = value
    assert list(unknown(planted)) == [place]
