"""The sagas: one file each, in the order parameters, steps, answer, definition."""

from orchestrator.definitions import Definitions
from orchestrator.sagas.place_order import PLACE_ORDER

# Every version that may have open sagas; `sagacity sagas check` says which still do.
DEFINITIONS = Definitions({(saga.kind, saga.version): saga for saga in (PLACE_ORDER,)})
