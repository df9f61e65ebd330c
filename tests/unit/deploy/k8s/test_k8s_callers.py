"""Whom the code calls, and whom its policies serve: what the network is allowed is built on the first."""

from collections.abc import Mapping

from chassis.grpc_gate import Allow
from orchestrator.rpc import ORDER_SAGAS_POLICIES, SAGA_OPERATOR_POLICIES
from services.inventory import rpc as inventory
from services.orders import rpc as orders
from services.payments import rpc as payments
from services.users import rpc as users
from tests.unit.deploy.k8s.code_facts import calls, consumers_in_groups, speak_to_kafka
from tests.unit.deploy.k8s.manifests import WITH_DATABASE, WORKLOADS

POLICIES: Mapping[str, Mapping[str, Allow]] = {
    "users": users.POLICIES,
    "inventory": inventory.POLICIES,
    "payments": payments.POLICIES,
    "orders": orders.POLICIES,
    "orchestrator": {**ORDER_SAGAS_POLICIES, **SAGA_OPERATOR_POLICIES},
}
# An operator's command line goes through a port-forward of the cluster, which no NetworkPolicy sees.
NO_WORKLOADS = {"operator"}


def test_whoever_calls_is_served_by_a_policy() -> None:
    served = {
        (caller, name) for name, rpcs in POLICIES.items() for one in rpcs.values() for caller in one.callers
    }
    assert calls() <= served


def test_whoever_is_named_by_a_policy_for_some_services_only_calls() -> None:
    named = {
        (caller, name)
        for name, rpcs in POLICIES.items()
        for one in rpcs.values()
        for caller in one.callers - NO_WORKLOADS
        if not set(WORKLOADS) - {name} <= one.callers | {name}
    }
    assert named <= calls()


def test_what_the_code_says_of_the_network_is_what_the_architecture_says() -> None:
    backends = {"users", "inventory", "payments", "orders"}
    assert calls() == {
        *(("gateway", backend) for backend in (*backends, "orchestrator")),
        *(("orchestrator", backend) for backend in backends),
        ("orders", "orchestrator"),
    }
    assert speak_to_kafka() == {*backends, "gateway"}
    assert consumers_in_groups() == {"users", "orders"}
    assert set(WITH_DATABASE) == {*backends, "orchestrator"}
