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


def ingress_variant(folder: Path) -> Manifests:
    """Return base, policies and the Ingress, rendered from an overlay in this folder."""
    namespace = (K8S / "overlays" / "production" / "namespace.yaml").read_text("utf-8")
    (folder / "namespace.yaml").write_text(namespace.replace("name: sagacity\n", "name: shop\n"), "utf-8")
    # kustomize takes no absolute paths.
    k8s = os.path.relpath(K8S, folder.resolve())
    (folder / "kustomization.yaml").write_text(WITH_INGRESS.format(k8s=k8s), "utf-8")
    return Manifests("variant", render(folder), [])
