"""The way in by an Ingress; what the components are for; what no overlay shows."""

import re
from pathlib import Path

import pytest
import yaml

from chassis.topics import RETENTION_MS
from tests.docker_servers import POSTGRES_IMAGE
from tests.unit.deploy.k8s.manifests import K8S, OVERLAYS, PORTS, app, manifests, pod
from tests.unit.deploy.k8s.network_rules import DNS, allowed
from tests.unit.deploy.k8s.variants import dns_variant, ingress_variant

pytestmark = pytest.mark.kubectl

# The other way in, and what some clusters need beside.
NOT_IN_PRODUCTION = {"ingress", "node-local-dns", "kafka-tls"}
# NodeLocal DNSCache, Cloud DNS of GKE, and the pods of the first where a plug-in sees those.
DNS_AT_THE_NODE = ("169.254.20.10/32", "169.254.169.254/32", "kube-system/k8s-app=node-local-dns")


def test_an_ingress_leads_to_the_gateway_by_tls_alone(tmp_path: Path) -> None:
    found = ingress_variant(tmp_path)
    (ingress,) = found.of("Ingress")
    (rule,) = ingress["spec"]["rules"]
    (tls,) = ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    assert tls["secretName"]
    (path,) = rule["http"]["paths"]
    assert path["backend"] == {"service": {"name": "gateway", "port": {"name": "http"}}}
    assert [port["name"] for port in found.named("Service")["gateway"]["spec"]["ports"]] == ["http"]


def test_behind_an_ingress_only_its_controller_reaches_the_gateway(tmp_path: Path) -> None:
    found = ingress_variant(tmp_path)
    peers = {peer for peer in allowed(found, "gateway", "ingress") if peer[2] == PORTS["gateway"]}
    assert peers == {("ingress", "TCP", PORTS["gateway"])}


def test_dns_at_the_node_is_reached_by_all_and_nothing_else_is(tmp_path: Path) -> None:
    found, plain = dns_variant(tmp_path), dns_variant(tmp_path / "plain", at_the_node=False)
    more = {(peer, protocol, 53) for peer in DNS_AT_THE_NODE for protocol in ("UDP", "TCP")}
    assert len(found.ours) == 11
    for name in found.ours:
        reached = allowed(found, name, "egress")
        assert reached > DNS
        assert reached == allowed(plain, name, "egress") | more, name
        assert allowed(found, name, "ingress") == allowed(plain, name, "ingress"), name


def test_production_has_every_component_but_what_is_for_other_clusters() -> None:
    overlay = yaml.safe_load((K8S / "overlays" / "production" / "kustomization.yaml").read_text("utf-8"))
    used = {Path(component).name for component in overlay["components"]} - {"surroundings"}
    components = {folder.name for folder in (K8S / "components").iterdir() if folder.is_dir()}
    assert used | NOT_IN_PRODUCTION == components


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workloads_and_migrations_of_an_overlay_run_the_same_image(overlay: str) -> None:
    found = manifests(overlay)
    assert len({app(document)["image"] for document in found.ours.values()}) == 1


def test_a_changed_setting_is_a_rollout() -> None:
    for document in manifests("production").deployments.values():
        names = [source["configMapRef"]["name"] for source in app(document)["envFrom"]]
        hashes = [name.rpartition("-")[2] for name in names]
        assert len(names) == 2
        assert all(len(one) == 10 for one in hashes), names


def test_pods_run_as_the_user_of_the_image() -> None:
    dockerfile = (K8S.parent / "Dockerfile").read_text("utf-8")
    (user,) = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    for document in manifests("production").ours.values():
        context = pod(document)["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


def test_the_laptops_kafka_keeps_events_for_as_long_as_the_operators_page_says() -> None:
    (container,) = pod(manifests("local").servers["kafka"])["containers"]
    assert {"name": "KAFKA_LOG_RETENTION_MS", "value": str(RETENTION_MS)} in container["env"]


def test_the_laptops_kafka_logs_to_standard_output_alone() -> None:
    found = manifests("local")
    kafka = found.servers["kafka"]
    (container,) = pod(kafka)["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["KAFKA_GC_LOG_OPTS"] == "-Xlog:gc=off", "else its start script logs into files"
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == "/mnt/shared/config"]
    (volume,) = [one for one in pod(kafka)["volumes"] if one["name"] == mount["name"]]
    text = found.named("ConfigMap")[volume["configMap"]["name"]]["data"]["log4j2.yaml"]
    logging = yaml.safe_load(text)["Configuration"]
    assert set(logging["Appenders"]) == {"Console"}
    assert isinstance(logging["Loggers"]["Logger"], list), (
        "the image's entrypoint replaces what it cannot read"
    )
    names = [one["ref"] for one in logging["Loggers"]["Root"]["AppenderRef"]]
    assert names == [logging["Appenders"]["Console"]["name"]]


def test_memory_of_users_is_that_of_the_others() -> None:
    limits = {
        name: app(document)["resources"]["limits"]["memory"]
        for name, document in manifests("production").deployments.items()
    }
    assert set(limits.values()) == {"384Mi"}, limits


def test_the_laptops_postgresql_is_the_one_that_the_tests_use() -> None:
    (container,) = pod(manifests("local").servers["postgresql"])["containers"]
    assert container["image"] == POSTGRES_IMAGE
