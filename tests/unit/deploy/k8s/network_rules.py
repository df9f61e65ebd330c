"""Rules for the network: all reach what their code calls, and are reached by their callers; no more."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.unit.deploy.k8s.code_facts import calls, speak_to_kafka
from tests.unit.deploy.k8s.manifests import (
    METRICS_PORT,
    PORTS,
    WITH_DATABASE,
    WORKLOADS,
    Document,
    Manifests,
    matches,
    pod_labels,
    selected,
    settings_of,
)

Peer = tuple[str, str, int]  # who, protocol, port

DNS = {("kube-system/k8s-app=kube-dns", "UDP", 53), ("kube-system/k8s-app=kube-dns", "TCP", 53)}
COLLECTOR = ("monitoring", "TCP", 4317)  # by namespace alone: charts call the collector's pods differently
PROMETHEUS = ("monitoring", "TCP", METRICS_PORT)
EDGE = ("sagacity-edge", "TCP", PORTS["gateway"])
NAMESPACE_NAME = "kubernetes.io/metadata.name"
# The addresses that production's overlay has until somebody puts in theirs: one for each database.
POSTGRES_PORT, KAFKA_PORT = 5432, 9092
SOMEBODY_ELSES_KAFKA = ("198.51.100.0/24", "TCP", KAFKA_PORT)
SOMEBODY_ELSES_DATABASES = {
    name: (f"192.0.2.{number}/32", "TCP", POSTGRES_PORT)
    for number, name in enumerate(("users", "inventory", "payments", "orders", "orchestrator"), start=11)
}


def everything_is_denied_by_default(found: Manifests) -> Iterator[str]:
    for policy in found.of("NetworkPolicy"):
        spec = policy["spec"]
        if spec["podSelector"] == {}:
            if set(spec["policyTypes"]) != {"Ingress", "Egress"} or spec.get("ingress") or spec.get("egress"):
                yield f"the default is {spec}"
            return
    yield "there is no default"


def each_has_a_network_policy_of_its_own(found: Manifests) -> Iterator[str]:
    policies = found.named("NetworkPolicy")
    for name in found.everything_that_runs:
        spec = policies.get(name, {"spec": {"podSelector": {}}})["spec"]
        if selected(found, spec["podSelector"]) != {name}:
            yield f"the policy of {name} selects {spec['podSelector']}"
        elif set(spec["policyTypes"]) != {"Ingress", "Egress"}:
            yield f"the policy of {name} is for {spec['policyTypes']}"


def each_reaches_exactly_what_its_code_calls(found: Manifests) -> Iterator[str]:
    for name in found.everything_that_runs:
        yield from _differences(name, "egress", allowed(found, name, "egress"), _wanted_egress(found, name))


def each_is_reached_by_exactly_its_callers(found: Manifests) -> Iterator[str]:
    for name in found.everything_that_runs:
        yield from _differences(
            name, "ingress", allowed(found, name, "ingress"), _wanted_ingress(found, name)
        )


def traces_go_where_the_policies_let_them(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        endpoint = settings_of(found, document).get("OTEL_EXPORTER_OTLP_ENDPOINT")
        if endpoint is None:
            continue
        target = urlsplit(endpoint)
        _, _, namespace = (target.hostname or "").partition(".")
        if (namespace, "TCP", target.port) not in allowed(found, name, "egress"):
            yield f"{name} may not send to {endpoint}"


def policies_say_nothing_that_the_other_rules_do_not_read(found: Manifests) -> Iterator[str]:
    """What `allowed` does not look at may widen a policy, and no other rule would see it."""
    for policy in found.of("NetworkPolicy"):
        spec = policy["spec"]
        unread = [*_unread(spec, {"podSelector", "policyTypes", "ingress", "egress"})]
        unread += _unread(spec["podSelector"], {"matchLabels"})
        for way, side in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(way) or []:
                unread += _unread_of_a_rule(rule, side)
        for one in unread:
            yield f"{policy['metadata']['name']} says {one}, which no rule reads"


def _unread_of_a_rule(rule: Document, side: str) -> Iterator[str]:
    yield from _unread(rule, {side, "ports"})
    for port in rule.get("ports", []):
        yield from _unread(port, {"protocol", "port"})
        if "port" not in port:
            yield f"a port without a number, {port}"
    for peer in rule.get(side, []):
        if "ipBlock" in peer:
            yield from _unread(peer, {"ipBlock"})
            yield from _unread(peer["ipBlock"], {"cidr"})
            continue
        yield from _unread(peer, {"podSelector", "namespaceSelector"})
        for selector in peer.values():
            yield from _unread(selector, {"matchLabels"})
        namespaces = peer.get("namespaceSelector", {"matchLabels": {NAMESPACE_NAME: ""}})
        if set(namespaces.get("matchLabels", {})) != {NAMESPACE_NAME}:
            yield f"namespaces by other than their name, {namespaces}"


def _unread(document: Document, known: set[str]) -> Iterator[str]:
    yield from (f"{key}: {document[key]}" for key in sorted(set(document) - known))


def _differences(name: str, way: str, is_allowed: set[Peer], wanted: set[Peer]) -> Iterator[str]:
    for peer in sorted(is_allowed - wanted):
        yield f"{name}: {way} of {peer} is allowed for nothing"
    for peer in sorted(wanted - is_allowed):
        yield f"{name}: {way} of {peer} is denied"


def _wanted_egress(found: Manifests, name: str) -> set[Peer]:
    if name in found.servers:
        return set()
    program = name.removesuffix("-migrations")
    wanted = set(DNS)
    if program in WITH_DATABASE:
        wanted.add(
            ("postgresql", "TCP", POSTGRES_PORT) if found.is_local else SOMEBODY_ELSES_DATABASES[program]
        )
    if name not in WORKLOADS:
        return wanted
    if name in speak_to_kafka():
        wanted.add(("kafka", "TCP", KAFKA_PORT) if found.is_local else SOMEBODY_ELSES_KAFKA)
    wanted |= {(callee, "TCP", PORTS[callee]) for caller, callee in calls() if caller == name}
    return wanted | {COLLECTOR}


def _wanted_ingress(found: Manifests, name: str) -> set[Peer]:
    if name == "postgresql":
        users = {*WITH_DATABASE, *(f"{one}-migrations" for one in WITH_DATABASE)}
        return {(user, "TCP", POSTGRES_PORT) for user in users}
    if name == "kafka":
        return {(user, "TCP", KAFKA_PORT) for user in speak_to_kafka()}
    if name not in WORKLOADS:
        return set()
    wanted = {(caller, "TCP", PORTS[name]) for caller, callee in calls() if callee == name}
    if name == "gateway" and not found.is_local:
        wanted.add(EDGE)
    return wanted | {PROMETHEUS}


def allowed(found: Manifests, name: str, way: str) -> set[Peer]:
    """Return whom the policies let this one reach ("egress"), or be reached by ("ingress"), all together."""
    labels = pod_labels(found.everything_that_runs[name])
    peers: set[Peer] = set()
    for policy in found.of("NetworkPolicy"):
        if matches(policy["spec"]["podSelector"], labels):
            for rule in policy["spec"].get(way) or []:
                peers |= _peers(found, rule, "to" if way == "egress" else "from")
    return peers


def _peers(found: Manifests, rule: Document, side: str) -> set[Peer]:
    names = {who for peer in rule.get(side, []) for who in _who(found, peer)} or {"anybody"}
    ports = {(one.get("protocol", "TCP"), one["port"]) for one in rule.get("ports", [])} or {("any", 0)}
    return {(name, protocol, port) for name in names for protocol, port in ports}


def _who(found: Manifests, peer: Document) -> set[str]:
    if "ipBlock" in peer:
        return {peer["ipBlock"]["cidr"]}
    if "namespaceSelector" not in peer:
        return selected(found, peer["podSelector"])
    namespace = peer["namespaceSelector"].get("matchLabels", {}).get(NAMESPACE_NAME, "anywhere")
    pods = peer.get("podSelector", {}).get("matchLabels", {})
    return {"/".join([namespace, *(f"{key}={value}" for key, value in pods.items())])}


RULES = (
    everything_is_denied_by_default,
    each_has_a_network_policy_of_its_own,
    each_reaches_exactly_what_its_code_calls,
    each_is_reached_by_exactly_its_callers,
    traces_go_where_the_policies_let_them,
    policies_say_nothing_that_the_other_rules_do_not_read,
)
