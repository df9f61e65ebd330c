"""The tables of docs/ name what the code has, all of it and nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from chassis.config import ProcessSettings, variables
from gateway.config import GatewaySettings
from gateway.routes import admin, admin_events, orders, products, provider_webhooks, sessions, system, users
from gateway.routing import GuardedRoute
from orchestrator.config import OrchestratorSettings
from orchestrator.saga import Step
from orchestrator.sagas import DEFINITIONS
from services.inventory.config import InventorySettings
from services.orders.config import OrdersSettings
from services.payments.config import PaymentsSettings
from services.users.config import UsersSettings

ROOT = Path(__file__).resolve().parents[3]
CONTEXTS = ("users", "inventory", "payments", "orders", "sagas")
SETTINGS: tuple[type[ProcessSettings], ...] = (
    GatewaySettings,
    UsersSettings,
    InventorySettings,
    PaymentsSettings,
    OrdersSettings,
    OrchestratorSettings,
)
ACCESS = {"anyone": "anyone", "user": "a user", "staff": "support, admin", "admin": "admin"}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def policies(context: str) -> dict[str, tuple[str, str]]:
    """Return RPC -> (services, roles) as docs/api.md writes them."""
    module = importlib.import_module("orchestrator.rpc" if context == "sagas" else f"services.{context}.rpc")
    tables = [vars(module)[name] for name in vars(module) if name.endswith("POLICIES")]
    found = {}
    for rpc, allow in (entry for table in tables for entry in table.items()):
        services = ", ".join(sorted(allow.callers)) if len(allow.callers) < 5 else "every service"
        roles = allow.roles or frozenset()
        found[rpc] = (services, "any" if len(roles) == 3 else ", ".join(sorted(roles)))
    return found


def test_the_routes_in_the_api_page_are_those_of_the_gateway_with_who_may_call_them() -> None:
    listed = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \| ([^|]*) \|", page("api.md"), re.MULTILINE))
    routes = [
        route
        for module in (admin, admin_events, orders, products, provider_webhooks, sessions, system, users)
        for route in module.ROUTER.routes
    ]
    guarded = [route for route in routes if isinstance(route, GuardedRoute)]
    assert len(guarded) == len(routes)
    assert listed == {
        (f"{method} {route.path}", ACCESS[route.access.value])
        for route in guarded
        for method in route.methods or ()
    }


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_rpcs_in_the_api_page_are_those_of_the_protos_with_who_may_call_them(context: str) -> None:
    importlib.import_module(f"sagacity.{context}.v1.{context}_pb2")
    file = descriptor_pool.Default().FindFileByName(f"sagacity/{context}/v1/{context}.proto")
    expected = policies(context)
    for service in file.services_by_name.values():
        section = page("api.md").split(f"### {service.full_name}\n")[1].split("\n### ")[0]
        listed = {
            name: (services, roles.strip())
            for name, services, roles in re.findall(
                r"^\| `(\w+)` \| ([^|]*) \| ([^|]*)\|", section, re.MULTILINE
            )
        }
        assert listed == {name: expected[name] for name in service.methods_by_name}


def test_the_events_page_lists_every_event_under_its_topic() -> None:
    listed: dict[str, set[str]] = {}
    topic = ""
    for named, event in re.findall(
        r"^\| (?:`([a-z0-9.]+)` )?\| `([A-Z]\w+)` \|", page("events.md"), re.MULTILINE
    ):
        topic = named or topic
        listed.setdefault(topic, set()).add(event)
    for context in CONTEXTS[:-1]:
        source = (ROOT / "protos" / "sagacity" / context / "v1" / "events.proto").read_text("utf-8")
        # A fact says what its key is; what is only a part of facts has none.
        facts = set(re.findall(r"^//[^\n]*Key: [^\n]*\nmessage (\w+)", source, re.MULTILINE))
        assert listed[importlib.import_module(f"services.{context}.events").TOPIC] == facts


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: str(settings.process))
def test_the_operations_page_names_every_variable_that_a_process_reads(
    settings: type[ProcessSettings],
) -> None:
    named = set(re.findall(r"`(SAGACITY_[A-Z_<>]+)", page("operations.md")))
    for field in settings.model_fields:
        choices = variables(settings.process, field)
        general = f"SAGACITY_<PROCESS>_{field.upper()}"
        assert named & {*choices, general}, f"{choices} is not on the page"


def as_listed(step: Step) -> str:
    name = f"**{step.name}**" if step.pivot else step.name
    return name + (" (check)" if step.check else "") + (" (where asked)" if step.when else "")


def test_the_architecture_page_lists_the_steps_of_every_saga_in_their_order() -> None:
    listed = dict(re.findall(r"^\| `(\w+_order)` \| ([^|]*) \|", page("architecture.md"), re.MULTILINE))
    assert listed == {
        kind: ", ".join(" ∥ ".join(as_listed(step) for step in group) for group in saga.groups)
        for (kind, _), saga in sorted(DEFINITIONS.sagas.items())
    }
