"""No saga is left out of the harness."""

from orchestrator.sagas import DEFINITIONS
from tests.sagas.worlds import WORLDS


def test_every_saga_has_a_world_to_be_tested_in() -> None:
    assert sorted(DEFINITIONS.sagas.keys() - WORLDS.keys()) == [], (
        "write their worlds in tests/sagas/worlds.py"
    )


def test_every_world_is_of_a_saga_that_exists() -> None:
    assert sorted(WORLDS.keys() - DEFINITIONS.sagas.keys()) == []
