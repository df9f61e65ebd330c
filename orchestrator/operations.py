"""What an operator may do to a saga: retry, skip, compensate, pause, resume, cancel, and look before it.

Each verb is one conditional write that takes the saga over; who asked and why is part of the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from chassis.errors import Detail, Fault, FaultKind
from orchestrator.definitions import Definitions
from orchestrator.entries import (
    OPEN_STATES,
    REQUESTED,
    TERMINAL_STATES,
    VERB_STATES,
    Call,
    Command,
    Event,
    Result,
    State,
    Verb,
)
from orchestrator.executor import Executor
from orchestrator.progress import Progress
from orchestrator.saga import Action, Operation, Outcome, Step, View
from orchestrator.saga_log import SagaLog, SagaRow

# A busy saga may move on between a look and the write that is conditional on it.
COMMAND_ATTEMPTS = 5
MAX_PLANNED_CALLS = 100
_UNWINDING = frozenset({Verb.COMPENSATE, Verb.CANCEL})


@dataclass(frozen=True)
class Request:
    """What is asked of a saga. `step` and `output_json` belong to a skip; no output: an empty reply."""

    saga_id: UUID
    verb: Verb
    actor: str
    reason: str
    step: str = ""
    output_json: str = ""


@dataclass(frozen=True)
class Plan:
    """What a verb would do: the calls in order, and where the saga would stand after their success.

    `request_json` of a call is empty where it depends on a reply that is not known yet.
    """

    calls: tuple[PlannedCall, ...]
    state: State


@dataclass(frozen=True)
class PlannedCall:
    """A call that would be sent."""

    step: str
    operation: str
    rpc: str
    request_json: str


class Operations:
    """The verbs, on one replica; they reach every saga, whoever drives it."""

    def __init__(self, journal: SagaLog, executor: Executor, definitions: Definitions) -> None:
        self._journal = journal
        self._executor = executor
        self._definitions = definitions

    async def perform(self, request: Request) -> None:
        """Do what is asked.

        Raises:
            Fault: NOT_FOUND SAGA_NOT_FOUND; FAILED_PRECONDITION SAGA_ENDED, VERB_NOT_POSSIBLE, PIVOT_PASSED,
                STEP_NOT_SKIPPABLE, STEP_NOT_PENDING; INVALID_ARGUMENT for an output that is not the step's;
                ABORTED SAGA_BUSY where it moves on faster than it can be looked at.
        """
        for _ in range(COMMAND_ATTEMPTS):
            row, progress = await self._look(request.saga_id)
            require_possible(request, row)
            reply = _skipped_output(request, progress) if request.verb is Verb.SKIP else None
            command = Command(
                saga_id=request.saga_id,
                verb=request.verb,
                event=Event(
                    request.step,
                    request.verb,
                    0,
                    REQUESTED,
                    reply=reply,
                    actor=request.actor,
                    reason=request.reason,
                ),
                before_pivot=request.verb in _UNWINDING,
                sequence=row.sequence if request.verb is Verb.SKIP else None,
            )
            if await self._executor.command(command):
                return
        raise Fault(FaultKind.ABORTED, "SAGA_BUSY", "the saga moves on too fast; ask again")

    async def preview(self, request: Request) -> Plan:
        """Say what a verb would do; nothing is changed.

        Raises:
            Fault: as `perform`.
        """
        row, progress = await self._look(request.saga_id)
        require_possible(request, row)
        reply = _skipped_output(request, progress) if request.verb is Verb.SKIP else None
        if request.verb is Verb.PAUSE:
            return Plan((), State.PAUSED)
        if progress is None:
            # Whoever drives it parks it again.
            return Plan((), State.PARKED)
        if progress.state in {State.PARKED, State.PAUSED}:
            progress.state = State.RUNNING if row.refusal is None else State.COMPENSATING
        progress.replay(Event(request.step, request.verb, 0, REQUESTED, reply=reply, reason=request.reason))
        late = row.deadline_seconds < 0 and progress.may_still_unwind
        return planned(progress, late=late)

    async def _look(self, saga_id: UUID) -> tuple[SagaRow, Progress | None]:
        try:
            row, events = await self._journal.load(saga_id)
        except KeyError:
            raise Fault(FaultKind.NOT_FOUND, "SAGA_NOT_FOUND", "there is no such saga") from None
        try:
            return row, self._definitions.progress(row, events)
        except Exception:  # noqa: BLE001 - a saga that does not load is what an operator looks at
            return row, None


def require_possible(request: Request, row: SagaRow) -> None:
    """Refuse a verb that a saga in this state cannot do.

    Raises:
        Fault: FAILED_PRECONDITION SAGA_ENDED, VERB_NOT_POSSIBLE or PIVOT_PASSED.
    """
    if row.state in TERMINAL_STATES:
        raise _refused("SAGA_ENDED", f"the saga is {row.state}")
    if row.state not in VERB_STATES[request.verb]:
        raise _refused("VERB_NOT_POSSIBLE", f"a saga that is {row.state} cannot {request.verb}")
    if request.verb in _UNWINDING:
        if row.refusal is not None:
            raise _refused("VERB_NOT_POSSIBLE", "the saga is being undone already")
        if row.pivot_intended:
            raise _refused("PIVOT_PASSED", "the pivot is intended: from then on the saga only goes forward")


def _refused(reason: str, message: str) -> Fault:
    return Fault(FaultKind.FAILED_PRECONDITION, reason, message)


def _skipped_output(request: Request, progress: Progress | None) -> bytes:
    """Check that a step may be taken for done, and return its supplied reply as bytes."""
    if progress is None:
        raise _refused("DEFINITION_MISSING", "this code does not have the saga's definition")
    if progress.refusal is not None:
        raise _refused(
            "STEP_NOT_SKIPPABLE", "an undo cannot be skipped: money or stock would stay where it is"
        )
    try:
        step = progress.definition.step(request.step)
    except KeyError:
        raise invalid("step", f"the saga has no step {request.step!r}") from None
    stuck = {call.step for call in progress.pending()} | set(progress.refused_calls())
    if step.name not in stuck:
        raise _refused("STEP_NOT_PENDING", f"{step.name} is not the step that the saga is at")
    if not step.skippable:
        message = f"without {step.name}, money, stock or the order's state would not add up"
        raise _refused("STEP_NOT_SKIPPABLE", message)
    _, reply = _messages(step.do)
    output = request.output_json.strip() or "{}"
    if not output.startswith("{"):
        # An empty list, too, would be taken for an empty message.
        raise invalid("output_json", f"not a {reply.DESCRIPTOR.name}: it must be a JSON object")
    try:
        json_format.Parse(output, reply)
    except (ValueError, TypeError, RecursionError, json_format.ParseError) as error:
        raise invalid("output_json", f"not a {reply.DESCRIPTOR.name}: {error}"[:500]) from None
    return reply.SerializeToString(deterministic=True)


def invalid(field: str, message: str) -> Fault:
    """The refusal of a field of what is asked."""
    return Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", message, fields=(Detail(field, message),))


def planned(progress: Progress, *, late: bool = False) -> Plan:
    """Play a saga on in memory as if every call succeeded; `progress` is used up. `late`: past its deadline.

    What an undo sends is known before it is called; what a step sends, only where the replies that it reads
    are.
    """
    if progress.state is State.COMPENSATING or progress.must_unwind or late:
        return _unwinding(progress, late=late)
    if progress.state is State.WAITING:
        return Plan((), State.WAITING)
    calls = [_planned_call(call) for call in progress.pending()]
    replies = progress.ending().replies
    intended = {call.step for call in calls} | replies.keys()
    for step in progress.definition.all_steps():
        chosen = step.when is None or step.when(progress.params)
        if chosen and step.name not in intended:
            known = replies.keys() >= set(step.do.reads)
            request = _future_request(progress, step, replies) if known else ""
            calls.append(PlannedCall(step.name, Operation.DO, step.do.path, request))
    return Plan(tuple(calls), State.COMPLETED)


def _unwinding(progress: Progress, *, late: bool) -> Plan:
    calls: list[PlannedCall] = []
    while progress.state in {*OPEN_STATES, State.WAITING} and len(calls) < MAX_PLANNED_CALLS:
        pending = progress.pending() if progress.state is State.COMPENSATING else []
        calls += [_planned_call(call) for call in pending]
        done = [Result(call, Outcome.DONE, reply=b"") for call in pending]
        try:
            progress.absorb(done, deadline_passed=late)
        except Exception:  # noqa: BLE001 - of a step function, or of the answer, made of replies that nobody has
            return Plan(tuple(calls), State.COMPENSATED if _is_undone(progress) else State.PARKED)
    return Plan(tuple(calls), progress.state)


def _is_undone(progress: Progress) -> bool:
    return progress.state is State.COMPENSATED


def _planned_call(call: Call) -> PlannedCall:
    request, _ = _messages(call.action)
    request.ParseFromString(call.request)
    return PlannedCall(call.step, call.operation, call.action.path, _json(request))


def _future_request(progress: Progress, step: Step, replies: Mapping[str, bytes]) -> str:
    view: View[Any] = View(
        saga_id=progress.saga_id,
        params=progress.params,
        step=step.name,
        operation=Operation.DO,
        replies=replies,
        refusal=None,
        reads=step.do.reads,
    )
    try:
        return _json(step.do.build(view))
    except Exception:  # noqa: BLE001 - a step function with a bug: the saga will park there
        return ""


def _json(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None)


def _messages(action: Action) -> tuple[Message, Message]:
    """An empty request and an empty reply of an RPC."""
    method: Any = descriptor_pool.Default().FindServiceByName(action.service).methods_by_name[action.method]
    return (
        message_factory.GetMessageClass(method.input_type)(),
        message_factory.GetMessageClass(method.output_type)(),
    )
