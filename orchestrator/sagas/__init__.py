"""The sagas: one file each, in the order parameters, steps, answer, definition."""

from orchestrator.definitions import Definitions
from orchestrator.sagas.cancel_order import CANCEL_ORDER
from orchestrator.sagas.fulfil_order import FULFIL_ORDER
from orchestrator.sagas.place_order import PLACE_ORDER
from orchestrator.sagas.refund_order import REFUND_ORDER

# Every version that may have open sagas; `sagacity sagas check` says which still do.
DEFINITIONS = Definitions(
    {(saga.kind, saga.version): saga for saga in (PLACE_ORDER, CANCEL_ORDER, REFUND_ORDER, FULFIL_ORDER)}
)
