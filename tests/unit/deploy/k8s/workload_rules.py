"""Rules for what runs: each returns what breaks it, as sentences; nothing where it holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from chassis.grpc_client import DNS_INTERVAL_SECONDS
from chassis.lifecycle import DRAIN_ALL_SECONDS
from chassis.readiness import READINESS_SERVICE
from tests.unit.deploy.k8s.manifests import (
    PORTS,
    WITH_DATABASE,
    WORKLOADS,
    Document,
    Manifests,
    annotations_of,
    app,
    containers,
    pod,
    program_of,
    selected,
    sync_wave,
)

ENDPOINTS_SECONDS = 5  # what kube-proxy, DNS and proxies are given to hear of it
DNS_CACHE_SECONDS = 30  # what CoreDNS caches an answer for, and a cache on the node in its place
HOOK = "argocd.argoproj.io/hook"
STAGES = ("service", "orchestrator", "gateway")  # components of Deployments: who is called before who calls
AFTER_THE_DEPLOYMENTS = {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
GATEWAY_PROBE = {"path": "/healthz", "port": "http"}


def each_program_has_a_deployment_that_runs_it(found: Manifests) -> Iterator[str]:
    if set(found.deployments) != set(WORKLOADS):
        yield f"the Deployments are {sorted(found.deployments)}"
    for name, document in found.deployments.items():
        if app(document).get("command") != ["python", "-m", WORKLOADS[name].module]:
            yield f"{name} runs {app(document).get('command')}"


def each_database_has_a_migration_job_before_the_rollout(found: Manifests) -> Iterator[str]:
    if set(found.jobs) != {f"{name}-migrations" for name in WITH_DATABASE}:
        yield f"the Jobs are {sorted(found.jobs)}"
    if any(document["kind"] == "Job" for document in found.rollout):
        yield "a Job is applied with the rollout, not before it"
    for name, document in found.jobs.items():
        if app(document)["command"] != ["python", "-m", "chassis.migrations", program_of(name).package]:
            yield f"{name} runs {app(document)['command']}"
        if annotations_of(document).get(HOOK) != "PreSync":
            yield f"{name} is no PreSync hook"
        if "activeDeadlineSeconds" not in document["spec"] or pod(document).get("restartPolicy") != "Never":
            yield f"{name} may run for ever"


def what_migrations_run_with_is_there_before_them(found: Manifests) -> Iterator[str]:
    """In the first sync of Argo CD nothing is there but what earlier waves of hooks made."""
    there: set[tuple[str, str]] = set()
    first_job = min((sync_wave(job) for job in found.jobs.values()), default=0)
    for document in found.migrations:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "Job":
            continue
        there.add((kind, name))
        if annotations_of(document).get(HOOK) != "PreSync" or sync_wave(document) >= first_job:
            yield f"{kind}/{name} is not there before the Jobs"
    for name, job in found.jobs.items():
        maps = {one["configMap"]["name"] for one in pod(job).get("volumes", []) if "configMap" in one}
        needed = {("ServiceAccount", name), ("NetworkPolicy", name), *(("ConfigMap", one) for one in maps)}
        for kind, missing in sorted(needed - there):
            yield f"{name} needs {kind}/{missing}, which comes later"


def who_is_called_is_rolled_out_before_who_calls(found: Manifests) -> Iterator[str]:
    waves: dict[str, set[int]] = {stage: set() for stage in STAGES}
    for name, document in found.deployments.items():
        stage = document["metadata"]["labels"].get("app.kubernetes.io/component")
        if stage not in waves:
            yield f"{name} is of no stage: {stage}"
            return
        waves[stage].add(sync_wave(document))
    in_order = [waves[stage] for stage in STAGES]
    if not all(max(one) < min(later) for one, later in itertools.pairwise(in_order) if one and later):
        yield f"the waves are {waves}"
    every = [wave for one in in_order for wave in one]
    yield from _around_the_deployments(found, min(every, default=0), max(every, default=0))


def _around_the_deployments(found: Manifests, first: int, last: int) -> Iterator[str]:
    for document in found.rollout:
        place = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] in AFTER_THE_DEPLOYMENTS:
            if sync_wave(document) <= last:
                yield f"{place} is waited for before its Deployment is there"
        elif document["kind"] != "Deployment" and sync_wave(document) >= first:
            yield f"{place} is not there before the Deployments"


def migrations_have_a_role_that_workloads_do_not(found: Manifests) -> Iterator[str]:
    owners = {secret for job in found.jobs.values() for secret in _secrets(job)}
    for name, document in found.deployments.items():
        for secret in owners & _secrets(document):
            yield f"{name} has {secret}"
    for name, document in found.jobs.items():
        if _secrets(document) != {name}:
            yield f"{name} has {sorted(_secrets(document))}"


def _secrets(document: Document) -> set[str]:
    names = set()
    for volume in pod(document).get("volumes", []):
        if "secret" in volume:
            names.add(volume["secret"]["secretName"])
        sources = volume.get("projected", {}).get("sources", [])
        names |= {source["secret"]["name"] for source in sources if "secret" in source}
    return names


def _probe(found: Manifests, kind: str, service: str) -> Iterator[str]:
    for name, document in found.deployments.items():
        probe = app(document).get(kind, {})
        if name == "gateway":
            if probe.get("httpGet") != GATEWAY_PROBE:
                yield f"{name}: {kind} is {probe}"
        elif probe.get("grpc") != {"port": PORTS[name], "service": service}:
            yield f"{name}: {kind} is {probe}"


def startup_probes_wait_for_a_sign_of_life(found: Manifests) -> Iterator[str]:
    yield from _probe(found, "startupProbe", "")


def liveness_probes_do_not_ask_the_database(found: Manifests) -> Iterator[str]:
    yield from _probe(found, "livenessProbe", "")


def readiness_probes_ask_the_database(found: Manifests) -> Iterator[str]:
    yield from _probe(found, "readinessProbe", READINESS_SERVICE)


def a_rollout_takes_no_replica_away_before_another_is_there(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        rolling = document["spec"].get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0 or not rolling.get("maxSurge"):
            yield f"{name}: {rolling}"


def a_pod_leaves_its_services_before_it_is_told_to_stop(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        if _pause(document) < ENDPOINTS_SECONDS:
            yield f"{name} waits {_pause(document)} s before it stops"


def whoever_knows_only_old_replicas_hears_of_a_new_one_before_the_last_of_them_stops(
    found: Manifests,
) -> Iterator[str]:
    """An answer of DNS from just before a pod was ready is forgotten while the one before still serves."""
    needed = ENDPOINTS_SECONDS + DNS_CACHE_SECONDS + DNS_INTERVAL_SECONDS
    for name, document in found.deployments.items():
        stays = document["spec"].get("minReadySeconds", 0) + _pause(document)
        if stays < needed:
            yield f"{name}: an old pod stays {stays} s beside a new one, and clients may need {needed:.0f} s"


def the_grace_is_longer_than_the_drain(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        grace = pod(document).get("terminationGracePeriodSeconds", 30)
        needed = _pause(document) + DRAIN_ALL_SECONDS
        if grace <= needed:
            yield f"{name} is killed after {grace} s and may need {needed} s"


def _pause(document: Document) -> int:
    before = app(document).get("lifecycle", {}).get("preStop", {})
    return int(before.get("sleep", {}).get("seconds", 0))


def each_workload_has_a_disruption_budget_of_its_own(found: Manifests) -> Iterator[str]:
    budgets = found.named("PodDisruptionBudget")
    for name in found.deployments:
        spec = budgets.get(name, {}).get("spec", {})
        if spec.get("maxUnavailable") != 1 or selected(found, spec.get("selector", {})) != {name}:
            yield f"{name}: {spec}"
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{name}: a pod that waits for its database keeps a node from being drained"


def replicas_of_a_workload_are_spread_over_nodes_and_zones(found: Manifests) -> Iterator[str]:
    for name, document in found.deployments.items():
        constraints = pod(document).get("topologySpreadConstraints", [])
        keys = {one["topologyKey"] for one in constraints}
        if keys != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
            yield f"{name} is spread over {sorted(keys)}"
        for one in constraints:
            of_one_workload = "app.kubernetes.io/name" in one.get("matchLabelKeys", [])
            if (
                not of_one_workload
                or name not in selected(found, one["labelSelector"])
                or one["maxSkew"] != 1
            ):
                yield f"{name}: {one}"


def containers_have_requests_and_limits(found: Manifests) -> Iterator[str]:
    for name, document in found.everything_that_runs.items():
        for container in containers(document):
            resources = container.get("resources", {})
            for bound in ("requests", "limits"):
                if set(resources.get(bound, {})) != {"cpu", "memory"}:
                    yield f"{name}: {bound} are {resources.get(bound)}"


def each_has_a_service_account_of_its_own_without_a_token(found: Manifests) -> Iterator[str]:
    accounts = found.named("ServiceAccount")
    for name, document in found.everything_that_runs.items():
        if pod(document).get("serviceAccountName") != name:
            yield f"{name} runs as {pod(document).get('serviceAccountName')}"
        if pod(document).get("automountServiceAccountToken") is not False:
            yield f"the pods of {name} get a token"
        if accounts.get(name, {}).get("automountServiceAccountToken") is not False:
            yield f"the ServiceAccount {name} is not there or gives tokens"


def pods_meet_the_restricted_standard(found: Manifests) -> Iterator[str]:
    for name, document in found.everything_that_runs.items():
        own = pod(document).get("securityContext", {})
        if own.get("runAsNonRoot") is not True or not own.get("runAsUser") or not own.get("runAsGroup"):
            yield f"{name} may run as root: {own}"
        if own.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: seccomp is {own.get('seccompProfile')}"
        if {"hostNetwork", "hostPID", "hostIPC"} & set(pod(document)):
            yield f"{name} shares the host"
        for container in containers(document):
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
                yield f"{name} may gain privileges"
            if context.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name} has capabilities: {context.get('capabilities')}"


def root_file_systems_are_read_only_and_what_is_written_is_bounded(found: Manifests) -> Iterator[str]:
    for name, document in found.everything_that_runs.items():
        for container in containers(document):
            if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield f"{name} may write to its root"
        for volume in pod(document).get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{name}: {volume['name']} has no bound"
            if "hostPath" in volume:
                yield f"{name} mounts a folder of its host"


def settings_come_from_nowhere_but_the_manifests(found: Manifests) -> Iterator[str]:
    for name, document in found.everything_that_runs.items():
        if pod(document).get("enableServiceLinks") is not False:
            yield f"{name} gets variables made of the names of Services"


RULES = (
    each_program_has_a_deployment_that_runs_it,
    each_database_has_a_migration_job_before_the_rollout,
    what_migrations_run_with_is_there_before_them,
    who_is_called_is_rolled_out_before_who_calls,
    migrations_have_a_role_that_workloads_do_not,
    startup_probes_wait_for_a_sign_of_life,
    liveness_probes_do_not_ask_the_database,
    readiness_probes_ask_the_database,
    a_rollout_takes_no_replica_away_before_another_is_there,
    a_pod_leaves_its_services_before_it_is_told_to_stop,
    whoever_knows_only_old_replicas_hears_of_a_new_one_before_the_last_of_them_stops,
    the_grace_is_longer_than_the_drain,
    each_workload_has_a_disruption_budget_of_its_own,
    replicas_of_a_workload_are_spread_over_nodes_and_zones,
    containers_have_requests_and_limits,
    each_has_a_service_account_of_its_own_without_a_token,
    pods_meet_the_restricted_standard,
    root_file_systems_are_read_only_and_what_is_written_is_bounded,
    settings_come_from_nowhere_but_the_manifests,
)
