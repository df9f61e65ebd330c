"""All rules, by the sentences that their names are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from tests.unit.deploy.k8s import network_rules, object_rules, rollout_rules, workload_rules
from tests.unit.deploy.k8s.manifests import Manifests

Rule = Callable[[Manifests], Iterable[str]]
RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for module in (workload_rules, rollout_rules, object_rules, network_rules)
    for rule in module.RULES
}
