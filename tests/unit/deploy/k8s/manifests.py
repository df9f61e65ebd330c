"""The manifests of an overlay as kubectl renders them, and who is who in them."""

from __future__ import annotations

import copy
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.local.programs import PROGRAMS, Program

ROOT = Path(__file__).resolve().parents[4]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("local", "production")
RENDER_SECONDS = 60
METRICS_PORT = 9464
PORTS = {program.name: program.default_port for program in PROGRAMS}
WORKLOADS = {program.name: program for program in PROGRAMS}
WITH_DATABASE = {name: program for name, program in WORKLOADS.items() if program.database}

Document = dict[str, Any]


@dataclass
class Manifests:
    """What an overlay puts into a cluster: `rollout`, before it `migrations`; `edge` elsewhere."""

    overlay: str
    rollout: list[Document]
    migrations: list[Document]
    edge: list[Document] = field(default_factory=list)

    @property
    def all(self) -> list[Document]:
        return [*self.rollout, *self.migrations, *self.edge]

    def of(self, kind: str) -> list[Document]:
        return [document for document in self.all if document["kind"] == kind]

    def named(self, kind: str) -> dict[str, Document]:
        return {document["metadata"]["name"]: document for document in self.of(kind)}

    @property
    def deployments(self) -> dict[str, Document]:
        return self.named("Deployment")

    @property
    def jobs(self) -> dict[str, Document]:
        return self.named("Job")

    @property
    def servers(self) -> dict[str, Document]:
        return self.named("StatefulSet")

    @property
    def ours(self) -> dict[str, Document]:
        """What runs our image: by its name."""
        return {**self.deployments, **self.jobs}

    @property
    def everything_that_runs(self) -> dict[str, Document]:
        return {**self.ours, **self.servers}

    @property
    def is_local(self) -> bool:
        return self.overlay == "local"


def render(folder: Path) -> list[Document]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=RENDER_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@functools.cache
def _rendered(overlay: str) -> Manifests:
    folder = K8S / "overlays" / overlay
    edge = render(folder / "edge") if (folder / "edge").is_dir() else []
    return Manifests(overlay, render(folder), render(folder / "migrations"), edge)


def manifests(overlay: str) -> Manifests:
    """Return them anew each time, so that who plants a violation plants it for itself."""
    return copy.deepcopy(_rendered(overlay))


def pod(document: Document) -> Document:
    """Return the specification of the pods of what runs."""
    spec: Document = document["spec"]["template"]["spec"]
    return spec


def pod_labels(document: Document) -> dict[str, str]:
    labels: dict[str, str] = document["spec"]["template"]["metadata"].get("labels", {})
    return labels


def containers(document: Document) -> list[Document]:
    return [*pod(document).get("initContainers", []), *pod(document)["containers"]]


def app(document: Document) -> Document:
    """Return the one container of a workload or a migration."""
    (container,) = containers(document)
    return container


def annotations_of(document: Document) -> dict[str, str]:
    found: dict[str, str] = document["metadata"].get("annotations", {})
    return found


def sync_wave(document: Document) -> int:
    """Return when Argo CD applies it, within its phase; the next wave waits until this one is healthy."""
    return int(annotations_of(document).get("argocd.argoproj.io/sync-wave", "0"))


def program_of(name: str) -> Program:
    return WORKLOADS[name.removesuffix("-migrations")]


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """Tell whether a label selector selects; the empty one selects everything."""
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(_meets(one, labels) for one in selector.get("matchExpressions", []))


def _meets(expression: Document, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:
            raise AssertionError(f"no such operator here: {expression}")


def selected(found: Manifests, selector: Document) -> set[str]:
    """Return the names of what runs and is selected."""
    return {
        name
        for name, document in found.everything_that_runs.items()
        if matches(selector, pod_labels(document))
    }


def projected_files(document: Document) -> dict[str, tuple[str, str]]:
    """Return the files that come from Secrets: path → Secret and key."""
    found: dict[str, tuple[str, str]] = {}
    for container in containers(document):
        for mount in container.get("volumeMounts", []):
            for volume in pod(document).get("volumes", []):
                if volume["name"] == mount["name"]:
                    found |= {
                        f"{mount['mountPath']}/{path}": origin for path, origin in _secret_items(volume)
                    }
    return found


def _secret_items(volume: Document) -> Iterator[tuple[str, tuple[str, str]]]:
    for source in volume.get("projected", {}).get("sources", []):
        for item in source.get("secret", {}).get("items", []):
            yield item["path"], (source["secret"]["name"], item["key"])


def settings_maps(document: Document) -> set[str]:
    """Return the ConfigMaps that the container's variables come from."""
    sources = [source for container in containers(document) for source in container.get("envFrom", [])]
    return {source["configMapRef"]["name"] for source in sources if "configMapRef" in source}


def settings_of(found: Manifests, document: Document) -> dict[str, str]:
    """Return the variables that the container gets, from ConfigMaps and by name."""
    maps = found.named("ConfigMap")
    variables: dict[str, str] = {}
    for container in containers(document):
        for source in container.get("envFrom", []):
            name = source.get("configMapRef", {}).get("name")
            variables |= maps[name]["data"] if name in maps else {}
        variables |= {one["name"]: one.get("value", "") for one in container.get("env", [])}
    return variables
