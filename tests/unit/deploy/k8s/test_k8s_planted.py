"""A rule that finds nothing proves nothing: each finds every violation that is planted for it."""

import pytest

from tests.unit.deploy.k8s.manifests import OVERLAYS, manifests
from tests.unit.deploy.k8s.planted import Plant, plants
from tests.unit.deploy.k8s.rules import RULES

CASES = [(overlay, *one) for overlay in OVERLAYS for one in plants(overlay)]
NAMES = [f"{overlay}-{rule}-{number}" for overlay, rule, number, _ in CASES]


@pytest.mark.kubectl
@pytest.mark.parametrize(("overlay", "rule", "number", "plant"), CASES, ids=NAMES)
def test_what_is_planted_is_found(overlay: str, rule: str, number: int, plant: Plant) -> None:
    found = manifests(overlay)
    assert list(RULES[rule](found)) == [], "the violation would not be the reason"
    plant(found)
    assert list(RULES[rule](found)) != []


def test_every_rule_has_a_violation_that_is_planted_for_it() -> None:
    assert {rule for overlay in OVERLAYS for rule, _, _ in plants(overlay)} == set(RULES)
