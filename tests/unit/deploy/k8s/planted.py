"""Violations to plant: for every rule at least one way of breaking it, which the rule has to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.unit.deploy.k8s.manifests import Document, Manifests, annotations_of, app, containers, pod
from tests.unit.deploy.k8s.rollout_rules import KEPT

Plant = Callable[[Manifests], Any]


def spec(found: Manifests, kind: str, name: str) -> Document:
    inner: Document = found.named(kind)[name]["spec"]
    return inner


def users(found: Manifests) -> Document:
    return found.deployments["users"]


def drop(documents: list[Document], kind: str, name: str) -> None:
    documents[:] = [one for one in documents if (one["kind"], one["metadata"]["name"]) != (kind, name)]


def config_map(found: Manifests, name: str) -> Document:
    """Return the ConfigMap whose name begins so."""
    (document,) = [one for one in found.of("ConfigMap") if one["metadata"]["name"].rpartition("-")[0] == name]
    return document


def config(found: Manifests, name: str) -> dict[str, str]:
    """Return the settings of the ConfigMap whose name begins so."""
    data: dict[str, str] = config_map(found, name)["data"]
    return data


def wave(document: Document, number: int) -> None:
    document["metadata"].setdefault("annotations", {})["argocd.argoproj.io/sync-wave"] = str(number)


def port_of_users(number: int) -> Plant:
    return lambda found: app(users(found))["readinessProbe"]["grpc"].update(port=number)


def egress(found: Manifests, name: str) -> list[Document]:
    rules: list[Document] = spec(found, "NetworkPolicy", name)["egress"]
    return rules


def ingress(found: Manifests, name: str) -> list[Document]:
    rules: list[Document] = spec(found, "NetworkPolicy", name)["ingress"]
    return rules


def routes_of(found: Manifests) -> Document:
    namespaces: Document = spec(found, "Gateway", "sagacity")["listeners"][1]["allowedRoutes"]["namespaces"]
    return namespaces


def mount_of_owner(found: Manifests) -> None:
    source = {"secret": {"name": "users-migrations", "items": [{"key": "dsn", "path": "owner-dsn"}]}}
    (volume,) = [one for one in pod(users(found))["volumes"] if "projected" in one]
    volume["projected"]["sources"].append(source)


def anybody(port: int) -> Document:
    return {"ports": [{"protocol": "TCP", "port": port}]}


SAME = {"namespaces": {"from": "Same"}}
ANY_NAME = [{"key": "app.kubernetes.io/name", "operator": "Exists"}]

# Of workloads and migrations.
OF_WORKLOADS: dict[str, list[Plant]] = {
    "each_program_has_a_deployment_that_runs_it": [
        lambda m: drop(m.rollout, "Deployment", "payments"),
        lambda m: app(users(m)).update(command=["python", "-m", "services.orders"]),
    ],
    "each_database_has_a_migration_job_before_the_rollout": [
        lambda m: drop(m.migrations, "Job", "orders-migrations"),
        lambda m: m.rollout.append(m.jobs["orders-migrations"]),
        lambda m: m.jobs["users-migrations"]["metadata"]["annotations"].clear(),
        lambda m: m.jobs["users-migrations"]["spec"].pop("activeDeadlineSeconds"),
    ],
    "what_migrations_run_with_is_there_before_them": [
        lambda m: m.named("ServiceAccount")["users-migrations"]["metadata"].pop("annotations"),
        lambda m: m.named("NetworkPolicy")["users-migrations"]["metadata"].pop("annotations"),
        lambda m: wave(m.named("NetworkPolicy")["users-migrations"], 0),
        lambda m: wave(m.jobs["users-migrations"], -1),
        lambda m: drop(m.migrations, "ServiceAccount", "users-migrations"),
        lambda m: pod(m.jobs["users-migrations"])["volumes"].append({"configMap": {"name": "settings"}}),
    ],
    "who_is_called_is_rolled_out_before_who_calls": [
        lambda m: users(m)["metadata"].pop("annotations"),
        lambda m: wave(m.deployments["orchestrator"], 1),
        lambda m: wave(m.deployments["gateway"], -1),
        lambda m: wave(users(m), 2),
        lambda m: users(m)["metadata"]["labels"].update({"app.kubernetes.io/component": "another"}),
        lambda m: m.named("PodDisruptionBudget")["users"]["metadata"].pop("annotations"),
        lambda m: wave(m.named("ServiceAccount")["users"], 1),
    ],
    "migrations_have_a_role_that_workloads_do_not": [mount_of_owner],
    "startup_probes_wait_for_a_sign_of_life": [
        lambda m: app(users(m)).pop("startupProbe"),
        lambda m: app(users(m))["startupProbe"]["grpc"].update(service="readiness"),
    ],
    "liveness_probes_do_not_ask_the_database": [
        lambda m: app(users(m))["livenessProbe"]["grpc"].update(service="readiness"),
        lambda m: app(m.deployments["gateway"])["livenessProbe"]["httpGet"].update(path="/readyz"),
    ],
    "readiness_probes_ask_the_database": [
        lambda m: app(users(m))["readinessProbe"]["grpc"].update(service=""),
        port_of_users(50052),
        lambda m: app(users(m)).update(readinessProbe={"tcpSocket": {"port": 50051}}),
    ],
    "a_rollout_takes_no_replica_away_before_another_is_there": [
        lambda m: users(m)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        lambda m: users(m)["spec"].update(strategy={"type": "Recreate"}),
    ],
    "a_pod_leaves_its_services_before_it_is_told_to_stop": [
        lambda m: app(users(m)).pop("lifecycle"),
        lambda m: app(users(m))["lifecycle"]["preStop"]["sleep"].update(seconds=1),
    ],
    "whoever_knows_only_old_replicas_hears_of_a_new_one_before_the_last_of_them_stops": [
        lambda m: users(m)["spec"].pop("minReadySeconds"),
        lambda m: users(m)["spec"].update(minReadySeconds=5),
        lambda m: app(users(m)).pop("lifecycle"),
    ],
    "the_grace_is_longer_than_the_drain": [
        lambda m: pod(users(m)).pop("terminationGracePeriodSeconds"),
        lambda m: pod(users(m)).update(terminationGracePeriodSeconds=50),
    ],
    "each_workload_has_a_disruption_budget_of_its_own": [
        lambda m: drop(m.rollout, "PodDisruptionBudget", "users"),
        lambda m: spec(m, "PodDisruptionBudget", "users").update(selector={}),
        lambda m: spec(m, "PodDisruptionBudget", "users").pop("unhealthyPodEvictionPolicy"),
    ],
    "replicas_of_a_workload_are_spread_over_nodes_and_zones": [
        lambda m: pod(users(m))["topologySpreadConstraints"].pop(),
        lambda m: pod(users(m))["topologySpreadConstraints"][0].pop("matchLabelKeys"),
        lambda m: pod(users(m))["topologySpreadConstraints"][0]["labelSelector"].update(
            matchLabels={"app.kubernetes.io/part-of": "another"}
        ),
    ],
    "containers_have_requests_and_limits": [
        lambda m: app(users(m))["resources"].pop("limits"),
        lambda m: app(m.jobs["users-migrations"])["resources"]["requests"].pop("memory"),
    ],
    "each_has_a_service_account_of_its_own_without_a_token": [
        lambda m: pod(users(m)).update(serviceAccountName="orders"),
        lambda m: pod(users(m)).pop("automountServiceAccountToken"),
        lambda m: m.named("ServiceAccount")["users"].pop("automountServiceAccountToken"),
        lambda m: drop(m.migrations, "ServiceAccount", "users-migrations"),
    ],
    "pods_meet_the_restricted_standard": [
        lambda m: pod(users(m))["securityContext"].pop("runAsNonRoot"),
        lambda m: pod(users(m))["securityContext"].update(runAsUser=0),
        lambda m: pod(users(m))["securityContext"].pop("seccompProfile"),
        lambda m: pod(users(m)).update(hostNetwork=True),
        lambda m: app(users(m))["securityContext"].update(allowPrivilegeEscalation=True),
        lambda m: app(users(m))["securityContext"].pop("capabilities"),
    ],
    "root_file_systems_are_read_only_and_what_is_written_is_bounded": [
        lambda m: app(users(m))["securityContext"].update(readOnlyRootFilesystem=False),
        lambda m: pod(users(m))["volumes"].append({"name": "more", "emptyDir": {}}),
        lambda m: pod(users(m))["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ],
    "settings_come_from_nowhere_but_the_manifests": [lambda m: pod(users(m)).pop("enableServiceLinks")],
}

OF_OBJECTS: dict[str, list[Plant]] = {
    "everything_has_the_recommended_labels": [
        lambda m: m.named("Service")["gateway"]["metadata"].pop("labels"),
        lambda m: users(m)["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
    ],
    "everything_is_in_one_namespace_that_enforces_the_restricted_standard": [
        lambda m: m.of("Namespace")[0]["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce"),
        lambda m: users(m)["metadata"].update(namespace="default"),
        lambda m: m.jobs["users-migrations"]["metadata"].pop("namespace"),
    ],
    "grpc_workloads_have_headless_services_for_client_side_balancing": [
        lambda m: spec(m, "Service", "users-headless").pop("clusterIP"),
        lambda m: spec(m, "Service", "users-headless").update(selector={"app.kubernetes.io/name": "orders"}),
        lambda m: spec(m, "Service", "users-headless")["ports"][0].update(targetPort="metrics"),
    ],
    "addresses_are_those_of_the_headless_services": [
        lambda m: config(m, "settings").update(SAGACITY_USERS_ADDRESS="users-headless:50051"),
        lambda m: config(m, "settings").pop("SAGACITY_ORDERS_ADDRESS"),
    ],
    "processes_listen_where_services_and_probes_look": [
        lambda m: config(m, "users-settings").update(SAGACITY_USERS_LISTEN="127.0.0.1:50051"),
        lambda m: config(m, "users-settings").pop("SAGACITY_USERS_METRICS_LISTEN"),
    ],
    "settings_are_what_the_processes_read": [
        lambda m: config(m, "users-settings").update(SAGACITY_USERS_LISTNE="0.0.0.0:1"),
        lambda m: config(m, "users-settings").update(SAGACITY_ORCHESTRATOR_LEASE_SECONDS="3"),
        lambda m: config(m, "orchestrator-settings").update(SAGACITY_ORCHESTRATOR_LEASE_SECONDS="300"),
    ],
    "files_that_settings_name_are_mounted_and_no_others": [
        lambda m: config(m, "users-settings").pop("SAGACITY_USERS_SIGNING_KEY_FILE"),
        lambda m: config(m, "users-settings").update(SAGACITY_USERS_SIGNING_KEY_FILE="/elsewhere"),
        mount_of_owner,
    ],
    "secrets_come_by_name_and_as_files": [
        lambda m: m.rollout.append({"kind": "Secret", "metadata": {"name": "users-database"}}),
        lambda m: app(users(m))["envFrom"].append({"secretRef": {"name": "users-database"}}),
        lambda m: app(users(m)).update(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "b"}}}]),
    ],
    "no_value_in_a_config_map_is_a_secret": [
        lambda m: config(m, "users-settings").update(SAGACITY_USERS_DATABASE_DSN="host=db"),
        lambda m: config(m, "users-settings").update(SOMETHING="postgresql://users:hunter2@db/users"),
    ],
    "what_is_referred_to_is_there": [
        lambda m: app(users(m))["envFrom"].append({"configMapRef": {"name": "nothing"}}),
        lambda m: app(users(m))["volumeMounts"].append({"name": "nothing", "mountPath": "/nothing"}),
        lambda m: users(m)["spec"]["selector"].update(matchLabels={"app.kubernetes.io/name": "orders"}),
    ],
    "settings_of_an_older_release_are_there_for_the_way_back": [
        lambda m: config_map(m, "settings")["metadata"].pop("annotations"),
        lambda m: annotations_of(config_map(m, "orders-settings")).popitem(),
        lambda m: m.named("Service")["gateway"]["metadata"].update(annotations=KEPT),
    ],
    "images_are_one_and_fixed": [
        lambda m: app(users(m)).update(image="sagacity:latest"),
        lambda m: [app(one).update(image="registry.example/sagacity:latest") for one in m.ours.values()],
    ],
}

OF_PRODUCTION: dict[str, list[Plant]] = {
    "as_many_replicas_as_there_may_be_fit_the_connections_that_the_page_asks_for": [
        lambda m: spec(m, "HorizontalPodAutoscaler", "payments").update(maxReplicas=12),
        lambda m: spec(m, "HorizontalPodAutoscaler", "inventory").update(maxReplicas=9),
        lambda m: spec(m, "Deployment", "orchestrator")["strategy"]["rollingUpdate"].update(maxSurge=20),
    ],
    "a_request_may_take_as_long_as_the_gateway_lets_it": [
        lambda m: spec(m, "HTTPRoute", "gateway")["rules"][0].pop("timeouts"),
        lambda m: spec(m, "HTTPRoute", "gateway")["rules"][0].update(timeouts={"request": "15s"}),
    ],
    "replicas_are_scaled_by_load_and_consumers_by_partitions": [
        lambda m: drop(m.rollout, "HorizontalPodAutoscaler", "users"),
        lambda m: spec(m, "HorizontalPodAutoscaler", "users").update(maxReplicas=5),
        lambda m: spec(m, "HorizontalPodAutoscaler", "payments").update(minReplicas=1),
        lambda m: spec(m, "HorizontalPodAutoscaler", "payments").pop("behavior"),
        lambda m: users(m)["spec"].update(replicas=2),
    ],
    "what_is_measured_is_scraped_and_watched": [
        lambda m: spec(m, "PodMonitor", "sagacity")["selector"].pop("matchExpressions"),
        lambda m: spec(m, "PodMonitor", "sagacity")["podMetricsEndpoints"][0].update(port="http"),
        lambda m: spec(m, "PodMonitor", "sagacity")["podMetricsEndpoints"][0].update(relabelings=[]),
        lambda m: spec(m, "PrometheusRule", "sagacity")["groups"][0]["rules"].pop(),
        lambda m: config(m, "settings").pop("OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
    "the_way_in_is_by_tls_alone": [
        lambda m: spec(m, "HTTPRoute", "gateway")["parentRefs"][0].update(sectionName="http"),
        lambda m: spec(m, "HTTPRoute", "gateway")["rules"][0]["backendRefs"][0].update(port=8080),
        lambda m: [one.pop("tls", None) for one in spec(m, "Gateway", "sagacity")["listeners"]],
    ],
    "the_proxies_are_not_in_the_namespace_where_everything_is_denied": [
        lambda m: m.of("Gateway")[0]["metadata"].update(namespace="sagacity"),
        lambda m: spec(m, "HTTPRoute", "gateway")["parentRefs"][0].pop("namespace"),
        lambda m: spec(m, "HTTPRoute", "gateway-to-https")["parentRefs"][0].update(name="another"),
        lambda m: spec(m, "Gateway", "sagacity")["listeners"][1].update(allowedRoutes=SAME),
        lambda m: routes_of(m)["selector"].update(matchLabels={}),
        lambda m: ingress(m, "gateway")[-1].update(from_elsewhere=ingress(m, "gateway")[-1].pop("from")),
        lambda m: drop(m.edge, "Namespace", "sagacity-edge"),
    ],
    "traces_go_where_the_policies_let_them": [
        lambda m: config(m, "settings").update(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.elsewhere:4317"),
        lambda m: egress(m, "users").pop(),
    ],
}

OF_LAPTOPS: dict[str, list[Plant]] = {
    "replicas_are_scaled_by_load_and_consumers_by_partitions": [
        lambda m: users(m)["spec"].update(replicas=3),
    ],
    "images_are_one_and_fixed": [
        lambda m: containers(m.servers["kafka"])[0].update(image="apache/kafka"),
        lambda m: containers(m.servers["kafka"])[0].update(image="apache/kafka:4.1"),
        lambda m: containers(m.servers["postgresql"])[0].update(image="postgres:18-alpine"),
        lambda m: containers(m.servers["postgresql"])[0].update(image="postgres@sha256:18"),
    ],
}

OF_THE_NETWORK: dict[str, list[Plant]] = {
    "everything_is_denied_by_default": [
        lambda m: drop(m.rollout, "NetworkPolicy", "default-deny"),
        lambda m: spec(m, "NetworkPolicy", "default-deny").update(policyTypes=["Ingress"]),
        lambda m: spec(m, "NetworkPolicy", "default-deny").update(ingress=[{}]),
    ],
    "each_has_a_network_policy_of_its_own": [
        lambda m: drop(m.rollout, "NetworkPolicy", "users"),
        lambda m: spec(m, "NetworkPolicy", "users").update(podSelector={}),
        lambda m: spec(m, "NetworkPolicy", "users").update(policyTypes=["Ingress"]),
    ],
    "each_reaches_exactly_what_its_code_calls": [
        lambda m: egress(m, "users").append(anybody(443)),
        lambda m: egress(m, "users").append(egress(m, "gateway")[1]),
        lambda m: egress(m, "orchestrator").pop(1),
        lambda m: egress(m, "users-migrations").pop(0),
        lambda m: egress(m, "users")[0].update(to=[{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
    ],
    "each_is_reached_by_exactly_its_callers": [
        lambda m: ingress(m, "users")[0]["from"].pop(),
        lambda m: ingress(m, "users").append(anybody(50051)),
        lambda m: ingress(m, "orders")[0]["from"].append({"namespaceSelector": {}}),
        lambda m: ingress(m, "users")[0].pop("ports"),
    ],
    "policies_say_nothing_that_the_other_rules_do_not_read": [
        lambda m: egress(m, "users")[0]["ports"][0].update(endPort=65535),
        lambda m: egress(m, "users")[0].update(
            to=[{"ipBlock": {"cidr": "192.0.2.11/32", "except": ["192.0.2.11/32"]}}]
        ),
        lambda m: ingress(m, "users")[-1]["from"][0]["namespaceSelector"].update(matchExpressions=ANY_NAME),
        lambda m: ingress(m, "users")[0]["from"][0]["podSelector"].update(matchExpressions=ANY_NAME),
        lambda m: spec(m, "NetworkPolicy", "users")["podSelector"].update(matchExpressions=ANY_NAME),
        lambda m: ingress(m, "users")[-1]["from"][0]["namespaceSelector"].update(
            matchLabels={"kubernetes.io/metadata.name": "monitoring", "team": "another"}
        ),
        lambda m: ingress(m, "users")[-1]["from"][0].update(namespaceSelector={}),
        lambda m: egress(m, "users")[0]["ports"].append({"protocol": "TCP"}),
        lambda m: egress(m, "users")[0].update(comment="what is new in a later version"),
    ],
}


def plants(overlay: str) -> Iterator[tuple[str, int, Plant]]:
    """Return the rule, a number and the violation, of all that can be planted in an overlay."""
    particular = OF_LAPTOPS if overlay == "local" else OF_PRODUCTION
    for table in (OF_WORKLOADS, OF_OBJECTS, OF_THE_NETWORK, particular):
        for rule, violations in table.items():
            yield from ((rule, number, plant) for number, plant in enumerate(violations, start=1))
