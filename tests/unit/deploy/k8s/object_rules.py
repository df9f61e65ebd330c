"""Rules for what is around the pods: labels, Services, settings, Secrets, references, scaling, the way in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr, ValidationError

from chassis.config import ProcessSettings, variables
from deploy.k8s.prometheus_rule import prometheus_rule
from deploy.local.kafka import PARTITIONS
from gateway.config import GatewaySettings
from orchestrator.config import OrchestratorSettings
from services.inventory.config import InventorySettings
from services.orders.config import OrdersSettings
from services.payments.config import PaymentsSettings
from services.users.config import UsersSettings
from tests.unit.deploy.k8s.code_facts import consumers_in_groups
from tests.unit.deploy.k8s.manifests import (
    METRICS_PORT,
    PORTS,
    WORKLOADS,
    Document,
    Manifests,
    app,
    containers,
    matches,
    pod,
    pod_labels,
    program_of,
    projected_files,
    selected,
    settings_of,
)
from tests.unit.deploy.k8s.network_rules import NAMESPACE_NAME, allowed

LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "part-of", "managed-by")}
WITHOUT_NAMESPACE = {"Namespace"}
SETTINGS: dict[str, type[ProcessSettings]] = {
    cls.process: cls
    for cls in (
        GatewaySettings,
        OrchestratorSettings,
        UsersSettings,
        OrdersSettings,
        PaymentsSettings,
        InventorySettings,
    )
}
# The SDK of OpenTelemetry reads them; chassis.tracing asks for the first.
TRACING = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"}
SCALE_DOWN_SECONDS = 300
# By image: a tag of all the parts that its versions have; with fewer of them it floats.
VERSIONS_OF_SERVERS = {
    "postgres": re.compile(r"\d+\.\d+-alpine(\d+\.\d+)?"),
    "apache/kafka": re.compile(r"\d+\.\d+\.\d+"),
}
DIGEST = re.compile(r"^[^@:]+(:\d+)?/[^@:]+@sha256:[0-9a-f]{64}$")


def everything_has_the_recommended_labels(found: Manifests) -> Iterator[str]:
    for document in found.all:
        place = f"{document['kind']}/{document['metadata']['name']}"
        if missing := LABELS - set(document["metadata"].get("labels", {})):
            yield f"{place} lacks {sorted(missing)}"
    for name, document in found.everything_that_runs.items():
        if missing := LABELS - set(pod_labels(document)):
            yield f"the pods of {name} lack {sorted(missing)}"
        if pod_labels(document).get("app.kubernetes.io/name") != name:
            yield f"the pods of {name} are not called so"


def everything_is_in_one_namespace_that_enforces_the_restricted_standard(found: Manifests) -> Iterator[str]:
    (namespace,) = [one for one in found.rollout if one["kind"] == "Namespace"]
    if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce it"
    for document in (*found.rollout, *found.migrations):
        own = document["metadata"].get("namespace")
        if document["kind"] not in WITHOUT_NAMESPACE and own != namespace["metadata"]["name"]:
            yield f"{document['kind']}/{document['metadata']['name']} is in {own}"


def grpc_workloads_have_headless_services_for_client_side_balancing(found: Manifests) -> Iterator[str]:
    services = found.named("Service")
    for name, port in PORTS.items():
        service = services.get(name if name == "gateway" else f"{name}-headless", {}).get("spec", {})
        if (service.get("clusterIP") == "None") != (name != "gateway"):
            yield f"{name}: clusterIP is {service.get('clusterIP')}"
        if selected(found, {"matchLabels": service.get("selector", {})}) != {name}:
            yield f"{name}: the selector is {service.get('selector')}"
        targets = [one["targetPort"] for one in service.get("ports", [])]
        ports = {one["name"]: one["containerPort"] for one in app(found.deployments[name])["ports"]}
        if [ports.get(target) for target in targets] != [port]:
            yield f"{name}: the Service leads to {targets}"


def addresses_are_those_of_the_headless_services(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        given = settings_of(found, document)
        for other, port in PORTS.items():
            if other == "gateway":
                continue
            variable = f"SAGACITY_{other.upper()}_ADDRESS"
            if given.get(variable) != f"dns:///{other}-headless:{port}":
                yield f"{name}: {variable} is {given.get(variable)}"


def processes_listen_where_services_and_probes_look(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        given, own = settings_of(found, document), f"SAGACITY_{name.upper()}"
        for variable, port in ((f"{own}_LISTEN", PORTS[name]), (f"{own}_METRICS_LISTEN", METRICS_PORT)):
            if given.get(variable) != f"0.0.0.0:{port}":
                yield f"{name}: {variable} is {given.get(variable)}"
        ports = {one["containerPort"] for one in app(document)["ports"]}
        if ports != {PORTS[name], METRICS_PORT}:
            yield f"{name}: its ports are {sorted(ports)}"


def settings_are_what_the_processes_read(found: Manifests) -> Iterator[str]:
    everybody = {one for name in WORKLOADS for one in _readable(name)}
    for name, document in found.ours.items():
        program = program_of(name)
        given = settings_of(found, document)
        # The shared ConfigMap has what only some of them read.
        unknown = {one for one in given if one not in everybody | TRACING}
        foreign = {one for one in given if one in everybody - _readable(program.name)}
        if unknown or foreign:
            yield f"{name} does not read {sorted(unknown | foreign)}"
        try:
            SETTINGS[program.name](**_values(program.name, given))
        except ValidationError as error:
            yield f"{name}: {error}"


def _readable(process: str) -> set[str]:
    names = {one for field in SETTINGS[process].model_fields for one in variables(process, field)}
    return names | {f"{one}_FILE" for one in names}


def _values(process: str, given: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, info in SETTINGS[process].model_fields.items():
        for variable in variables(process, field):
            if variable in given:
                found[field] = SecretStr(given[variable]) if info.annotation is SecretStr else given[variable]
    return found


def files_that_settings_name_are_mounted_and_no_others(found: Manifests) -> Iterator[str]:
    for name, document in found.ours.items():
        named = {value for one, value in settings_of(found, document).items() if one.endswith("_FILE")}
        mounted = set(projected_files(document))
        if named != mounted:
            yield f"{name}: {sorted(named ^ mounted)}"


def secrets_come_by_name_and_as_files(found: Manifests) -> Iterator[str]:
    if found.of("Secret"):
        yield "a Secret is in the manifests"
    for name, document in found.everything_that_runs.items():
        for container in containers(document):
            if "secretKeyRef" in json.dumps(container.get("env", [])):
                yield f"{name}: a variable has a secret"
            if any("secretRef" in source for source in container.get("envFrom", [])):
                yield f"{name}: variables have secrets"


def no_value_in_a_config_map_is_a_secret(found: Manifests) -> Iterator[str]:
    for document in found.of("ConfigMap"):
        for key, value in document["data"].items():
            if re.search(r"(DSN|PASSWORD|SECRET|KEY)$", key) or re.search(r"://[^/]*:[^/]*@|BEGIN", value):
                yield f"{document['metadata']['name']}: {key} has a secret"


def what_is_referred_to_is_there(found: Manifests) -> Iterator[str]:
    maps = set(found.named("ConfigMap"))
    for name, document in found.everything_that_runs.items():
        volumes = {volume["name"] for volume in pod(document).get("volumes", [])}
        volumes |= {one["metadata"]["name"] for one in document["spec"].get("volumeClaimTemplates", [])}
        wanted = {one["configMap"]["name"] for one in pod(document)["volumes"] if "configMap" in one}
        for container in containers(document):
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            wanted |= {source["configMapRef"]["name"] for source in container.get("envFrom", [])}
            if not mounts <= volumes:
                yield f"{name} mounts {sorted(mounts - volumes)}"
        if not wanted <= maps:
            yield f"{name} wants {sorted(wanted - maps)}"
        template = document["spec"].get("selector")
        if template and not matches(template, pod_labels(document)):
            yield f"{name} does not select its own pods"


def images_are_one_and_fixed(found: Manifests) -> Iterator[str]:
    images = {app(document)["image"] for document in found.ours.values()}
    if len(images) != 1:
        yield f"several images: {sorted(images)}"
    for image in images:
        if image != "sagacity:dev" if found.is_local else not DIGEST.match(image):
            yield f"the image is {image}"
    for name, document in found.servers.items():
        for container in containers(document):
            image, _, tag = container["image"].partition(":")
            version = VERSIONS_OF_SERVERS.get(image)
            if not (version and version.fullmatch(tag)) and not DIGEST.match(container["image"]):
                yield f"{name} has no full version: {container['image']}"


def replicas_are_scaled_by_load_and_consumers_by_partitions(found: Manifests) -> Iterator[str]:
    scalers = found.named("HorizontalPodAutoscaler")
    for name, document in found.deployments.items():
        if found.is_local:
            if document["spec"].get("replicas") != 1 or name in scalers:
                yield f"{name} is not the one replica of a laptop"
            continue
        yield from _scaled(name, document, scalers.get(name, {}).get("spec", {}))


def _scaled(name: str, document: Document, spec: Document) -> Iterator[str]:
    if spec.get("scaleTargetRef") != {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}:
        yield f"{name} is not scaled: {spec.get('scaleTargetRef')}"
        return
    if "replicas" in document["spec"]:
        yield f"{name}: each rollout would undo what the autoscaler did"
    if not 2 <= spec["minReplicas"] < spec["maxReplicas"]:
        yield f"{name} has {spec['minReplicas']} to {spec['maxReplicas']} replicas"
    if name in consumers_in_groups() and spec["maxReplicas"] > PARTITIONS:
        yield f"{name}: of {spec['maxReplicas']} replicas only {PARTITIONS} have a partition to read"
    if (
        spec.get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds", 0)
        < SCALE_DOWN_SECONDS
    ):
        yield f"{name} loses replicas at every breath of the load"


def what_is_measured_is_scraped_and_watched(found: Manifests) -> Iterator[str]:
    if found.is_local:
        return
    (monitor,) = found.of("PodMonitor")
    if selected(found, monitor["spec"]["selector"]) != set(WORKLOADS):
        yield f"the PodMonitor selects {sorted(selected(found, monitor['spec']['selector']))}"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for name, document in found.deployments.items():
        ports = {one["name"]: one["containerPort"] for one in app(document)["ports"]}
        if ports.get(endpoint["port"]) != METRICS_PORT or endpoint["path"] != "/metrics":
            yield f"{name} is not scraped: {endpoint}"
        if "OTEL_EXPORTER_OTLP_ENDPOINT" not in settings_of(found, document):
            yield f"{name} sends no traces"
    if "service" not in {one["targetLabel"] for one in endpoint["relabelings"]}:
        yield "the label that rules and dashboards want is not made"
    (rule,) = found.of("PrometheusRule")
    if rule["spec"] != prometheus_rule()["spec"]:
        yield "the alerts are not those of deploy/prometheus/rules: make gen"


def the_way_in_is_by_tls_alone(found: Manifests) -> Iterator[str]:
    if found.is_local:
        return
    (edge,) = found.of("Gateway")
    listeners = {one["name"]: one for one in edge["spec"]["listeners"]}
    for route in found.of("HTTPRoute"):
        sections = {listeners[parent["sectionName"]]["protocol"] for parent in route["spec"]["parentRefs"]}
        backends = [one for rule in route["spec"]["rules"] for one in rule.get("backendRefs", [])]
        if backends and sections != {"HTTPS"}:
            yield f"{route['metadata']['name']} serves in the clear"
        for backend in backends:
            if backend != {"name": "gateway", "port": _service_port(found)}:
                yield f"{route['metadata']['name']} leads to {backend}"
    if not any(one.get("tls", {}).get("certificateRefs") for one in listeners.values()):
        yield "there is no certificate"


def the_proxies_are_not_in_the_namespace_where_everything_is_denied(found: Manifests) -> Iterator[str]:
    """Several controllers run their proxies in the namespace of the Gateway."""
    if found.is_local:
        return
    (edge,) = found.of("Gateway")
    (ours,) = [one["metadata"]["name"] for one in found.rollout if one["kind"] == "Namespace"]
    namespace = edge["metadata"]["namespace"]
    if namespace == ours or namespace not in found.named("Namespace"):
        yield f"the Gateway is in {namespace}"
    if (namespace, "TCP", PORTS["gateway"]) not in allowed(found, "gateway", "ingress"):
        yield f"the proxies in {namespace} do not reach the gateway"
    yield from _attached(found, edge, ours)


def _attached(found: Manifests, edge: Document, ours: str) -> Iterator[str]:
    name, namespace = edge["metadata"]["name"], edge["metadata"]["namespace"]
    for listener in edge["spec"]["listeners"]:
        wanted = {"from": "Selector", "selector": {"matchLabels": {NAMESPACE_NAME: ours}}}
        if listener["allowedRoutes"]["namespaces"] != wanted:
            yield f"{listener['name']} takes routes of {listener['allowedRoutes']['namespaces']}"
    for route in found.of("HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            if (parent.get("namespace"), parent["name"]) != (namespace, name):
                yield f"{route['metadata']['name']} is attached to {parent}"


def _service_port(found: Manifests) -> int:
    (port,) = found.named("Service")["gateway"]["spec"]["ports"]
    number: int = port["port"]
    return number


RULES = (
    everything_has_the_recommended_labels,
    everything_is_in_one_namespace_that_enforces_the_restricted_standard,
    grpc_workloads_have_headless_services_for_client_side_balancing,
    addresses_are_those_of_the_headless_services,
    processes_listen_where_services_and_probes_look,
    settings_are_what_the_processes_read,
    files_that_settings_name_are_mounted_and_no_others,
    secrets_come_by_name_and_as_files,
    no_value_in_a_config_map_is_a_secret,
    what_is_referred_to_is_there,
    images_are_one_and_fixed,
    replicas_are_scaled_by_load_and_consumers_by_partitions,
    what_is_measured_is_scraped_and_watched,
    the_way_in_is_by_tls_alone,
    the_proxies_are_not_in_the_namespace_where_everything_is_denied,
)
