"""Makes `components/monitoring/prometheus-rule.yaml` of the rules in `deploy/prometheus/rules`.

`python -m deploy.k8s.prometheus_rule` writes it; kustomize reads nothing outside of its own folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

DEPLOY = Path(__file__).resolve().parents[1]
RULES = DEPLOY / "prometheus" / "rules"
TARGET = DEPLOY / "k8s" / "components" / "monitoring" / "prometheus-rule.yaml"
LABELS = {
    "app.kubernetes.io/name": "sagacity",
    "app.kubernetes.io/component": "monitoring",
    "app.kubernetes.io/instance": "sagacity",
    "app.kubernetes.io/part-of": "sagacity",
    "app.kubernetes.io/managed-by": "kustomize",
}
HEADER = "# Made of deploy/prometheus/rules by `make gen`.\n"


def groups() -> list[dict[str, Any]]:
    """Return the groups of all rule files, in the order of their names."""
    files = sorted(RULES.glob("*.yaml"))
    return [group for file in files for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]


def prometheus_rule() -> dict[str, Any]:
    """Return the resource for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sagacity", "labels": LABELS},
        "spec": {"groups": groups()},
    }


class _Readable(yaml.SafeDumper):
    """Lists within their key's indentation, as in the other manifests; long texts as blocks."""

    @override
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def text() -> str:
    """Return what is in the file."""
    return HEADER + yaml.dump(prometheus_rule(), Dumper=_Readable, sort_keys=False, width=110)


if __name__ == "__main__":
    TARGET.write_text(text(), "utf-8")
