"""Rules for what a rollout and its way back find: room in the databases, settings, time for a request."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cli.capacity_model import POOL_MAX, RESERVED_CONNECTIONS, SUPERUSER_CONNECTIONS
from tests.unit.deploy.k8s.manifests import ROOT, WITH_DATABASE, Manifests, annotations_of, settings_maps

PAGE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")
# A pod that is told to stop is counted no more, and has its connections until it has drained.
STOPPING = 1
KEPT = {
    "argocd.argoproj.io/sync-options": "Prune=false",
    "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
}
NO_LIMIT = "0s"


def stated_connections() -> dict[str, int]:
    """Return the `max_connections` that the page asks of each workload's database."""
    rows = re.findall(r"^\| ([a-z, ]+) \| (\d+)\b[^|]* \|$", PAGE, re.MULTILINE)
    return {name: int(number) for names, number in rows for name in names.split(", ")}


def as_many_replicas_as_there_may_be_fit_the_connections_that_the_page_asks_for(
    found: Manifests,
) -> Iterator[str]:
    stated = stated_connections()
    if found.is_local:
        return
    for name in WITH_DATABASE:
        document = found.deployments[name]
        replicas = found.named("HorizontalPodAutoscaler")[name]["spec"]["maxReplicas"]
        surge = document["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        needed = (replicas + surge + STOPPING) * POOL_MAX[name] + RESERVED_CONNECTIONS
        if needed > stated.get(name, 0) - SUPERUSER_CONNECTIONS:
            yield f"{name} may need {needed} connections, and the page asks for {stated.get(name)}"


def settings_of_an_older_release_are_there_for_the_way_back(found: Manifests) -> Iterator[str]:
    """Argo CD prunes what is not in the manifests any more, unless that says otherwise itself."""
    kept = {name for document in found.deployments.values() for name in settings_maps(document)}
    for document in found.all:
        place = f"{document['kind']}/{document['metadata']['name']}"
        says = {key: value for key, value in annotations_of(document).items() if key in KEPT}
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] in kept:
            if says != KEPT:
                yield f"{place} is pruned while an old ReplicaSet names it"
        elif says:
            yield f"{place} is never pruned: {says}"


def a_request_may_take_as_long_as_the_gateway_lets_it(found: Manifests) -> Iterator[str]:
    """Controllers made of Envoy cut at 15 s where a route says nothing: waits for an order, live updates."""
    for route in found.of("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            if "backendRefs" in rule and rule.get("timeouts") != {"request": NO_LIMIT}:
                yield f"{route['metadata']['name']} cuts requests: {rule.get('timeouts')}"


RULES = (
    as_many_replicas_as_there_may_be_fit_the_connections_that_the_page_asks_for,
    settings_of_an_older_release_are_there_for_the_way_back,
    a_request_may_take_as_long_as_the_gateway_lets_it,
)
