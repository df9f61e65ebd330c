"""Every rule for our manifests holds in both overlays, as kubectl renders them."""

import pytest

from tests.unit.deploy.k8s import network_rules, object_rules, rollout_rules, workload_rules
from tests.unit.deploy.k8s.manifests import OVERLAYS, manifests
from tests.unit.deploy.k8s.rules import RULES

pytestmark = pytest.mark.kubectl


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule: str, overlay: str) -> None:
    assert list(RULES[rule](manifests(overlay))) == []


def test_no_rule_is_forgotten() -> None:
    modules = (workload_rules, rollout_rules, object_rules, network_rules)
    written = {
        name
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__annotations__", {}).get("return") == "Iterator[str]"
        and value.__module__ == module.__name__
    }
    assert written == set(RULES)
