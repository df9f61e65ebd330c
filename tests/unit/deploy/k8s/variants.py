"""Overlays that are not in the repository, as somebody would write theirs."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.deploy.k8s.manifests import K8S, Manifests, manifests, render

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
WITH_KAFKA_BY_TLS = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{k8s}/overlays/production]
components: [{k8s}/components/kafka-tls]
"""


def ingress_variant(folder: Path) -> Manifests:
    """Return base, policies and the Ingress, rendered from an overlay in this folder."""
    namespace = (K8S / "overlays" / "production" / "namespace.yaml").read_text("utf-8")
    (folder / "namespace.yaml").write_text(namespace.replace("name: sagacity\n", "name: shop\n"), "utf-8")
    _write(folder, WITH_INGRESS)
    return Manifests("variant", render(folder), [])


def kafka_by_tls_variant(folder: Path, patches: str = "") -> Manifests:
    """Return production with the component for Kafka by TLS, and `patches` of the overlay over it."""
    _write(folder, WITH_KAFKA_BY_TLS, patches)
    production = manifests("production")
    return Manifests("production", render(folder), production.migrations, production.edge)


def _write(folder: Path, text: str, patches: str = "") -> None:
    # kustomize takes no absolute paths.
    k8s = os.path.relpath(K8S, folder.resolve())
    (folder / "kustomization.yaml").write_text(text.format(k8s=k8s) + patches, "utf-8")


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
