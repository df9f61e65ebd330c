"""The rare branches that a run has to take to prove anything; the keys are those of the counts."""

from tests.simulation.definitions import UNDOABLE

RARE_BRANCHES = (
    *(f"undo of {name}" for name in UNDOABLE),
    *(
        f"{kind} {state}"
        for kind in ("place_order", "ship", "cancel")
        for state in ("COMPLETED", "COMPENSATED")
    ),
    *(f"{kind} PARKED" for kind in ("place_order", "ship", "cancel")),
    # fences and leases
    "fence refusal",
    "landed",
    "taken over",
    "own saga found again",
    "lease lost",
    "call of a replica that lost the saga",
    "saga dropped",
    "left memory",
    "held back",
    # participants
    "duplicate answered",
    "duplicate undo answered",
    "tombstone left",
    "tombstone met",
    "undo of a refused step",
    "undo of a step in progress",
    "unknown answer after the effect",
    "unrecorded refusal",
    "breaker opened",
    "breaker closed",
    # the order lock
    "saga has to wait",
    "started",
    "client was told ORDER_BUSY",
    "client was told OVERLOADED",
    # verbs
    "cancel before the pivot",
    "cancel while waiting",
    "compensate before the pivot",
    "pause before the pivot",
    "pause after the pivot",
    "resume before the pivot",
    "retry before the pivot",
    "retry after the pivot",
    "skip after the pivot",
    "operator was told PIVOT_PASSED",
    # why sagas were undone
    "unwound for CANCELLED",
    "unwound for COMPENSATED_BY_OPERATOR",
    "unwound for ORDER_TIMED_OUT",
    "unwound for NOT_THIS_ONE",
    "unwound for AT_THE_DOOR",
    "overdue",
    # what was broken
    "crash",
    "pause longer than the lease",
    "graceful stop",
    "handed over",
    "journal outage",
    "replica cut off from the journal",
    "journal: fault before",
    "journal: fault after",
    "journal: committed after the fault",
    "participant outage",
    "request lost",
    "request late",
    "reply lost",
)
