"""Overlays that are not in the repository, as somebody would write theirs."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.deploy.k8s.manifests import K8S, Manifests, render

WITH_INGRESS = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: shop
resources: [namespace.yaml, {k8s}/base]
components: [{k8s}/components/network-policies, {k8s}/components/ingress]
"""
WITH_DNS_AT_THE_NODE = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: shop
resources: [{resources}]
components: [{components}]
"""


def ingress_variant(folder: Path) -> Manifests:
    """Return base, policies and the Ingress, rendered from an overlay in this folder."""
    namespace = (K8S / "overlays" / "production" / "namespace.yaml").read_text("utf-8")
    (folder / "namespace.yaml").write_text(namespace.replace("name: sagacity\n", "name: shop\n"), "utf-8")
    # kustomize takes no absolute paths.
    k8s = os.path.relpath(K8S, folder.resolve())
    (folder / "kustomization.yaml").write_text(WITH_INGRESS.format(k8s=k8s), "utf-8")
    return Manifests("variant", render(folder), [])


def dns_variant(folder: Path, *, at_the_node: bool = True) -> Manifests:
    """Return base, policies and migrations, rendered from this folder, with DNS at the node or without."""
    rollout, migrations = folder / "rollout", folder / "migrations"
    for overlay, resource, policies in ((rollout, "base", True), (migrations, "migrations", False)):
        overlay.mkdir(parents=True)
        k8s = os.path.relpath(K8S, overlay.resolve())
        names = ["network-policies"] * policies + ["node-local-dns"] * at_the_node
        components = ", ".join(f"{k8s}/components/{name}" for name in names)
        text = WITH_DNS_AT_THE_NODE.format(resources=f"{k8s}/{resource}", components=components)
        (overlay / "kustomization.yaml").write_text(text, "utf-8")
    return Manifests("variant", render(rollout), render(migrations))
