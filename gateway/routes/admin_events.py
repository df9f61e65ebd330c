"""What operators look at and repair of a context's events; the admin who is logged in asks for the verbs."""

from typing import Annotated, Final

from fastapi import Query

from gateway import event_views as views
from gateway.auth import Access
from gateway.context import Ctx
from gateway.event_models import (
    ConsumerName,
    ContextName,
    DeadLetterDetailQuery,
    DeadLetterDiscard,
    DeadLetterQuery,
    DeadLetterReplay,
    EventVerb,
    ProjectionName,
)
from gateway.models import PageQuery
from gateway.openapi import problems
from gateway.routing import API, allow, router
from gateway.views import Page
from sagacity.events.v1 import event_operator_pb2 as pb

ROUTER = router(f"{API}/admin/contexts/{{context}}", tags=["admin"])

# More than a context waits for a Kafka that is away.
LAG_TIMEOUT_SECONDS: Final = 8.0
# A replay applies event by event, as many as one call may.
REPLAY_TIMEOUT_SECONDS: Final = 30.0

_NO_LETTER: Final = {404: "There is no such consumer or dead letter"}
_NO_CONSUMER: Final = {404: "There is no such consumer"}
_NO_PROJECTION: Final = {404: "There is no such projection"}
_REFUSED: Final = {**_NO_LETTER, 409: "It is not the first that is parked of its aggregate"}


@ROUTER.get("/lag")
@allow(Access.ADMIN)
async def read_lag(context_name: ContextName, context: Ctx) -> views.LagView:
    """Says how far a context's outbox and consumers are behind, and what is halted."""
    operator = context.backends.events[context_name]
    rpc, request = operator.stub.GetLag, pb.GetLagRequest()
    return views.lag(await context.call(operator, rpc, request, timeout_seconds=LAG_TIMEOUT_SECONDS))


@ROUTER.get("/dead-letters")
@allow(Access.ADMIN)
async def list_dead_letters(
    context_name: ContextName, query: Annotated[DeadLetterQuery, Query()], context: Ctx
) -> Page[views.DeadLetterView]:
    """Lists events that consumers put aside, by consumer, aggregate and sequence."""
    operator = context.backends.events[context_name]
    request = pb.ListDeadLettersRequest(
        page_size=query.page_size,
        page_token=query.page_token,
        consumer=query.consumer,
        aggregate=query.aggregate,
        type=query.type,
    )
    reply = await context.call(operator, operator.stub.ListDeadLetters, request)
    return Page(
        items=[views.dead_letter(letter) for letter in reply.dead_letters],
        next_page_token=reply.next_page_token or None,
    )


@ROUTER.get("/dead-letters/detail", responses=problems(_NO_LETTER))
@allow(Access.ADMIN)
async def read_dead_letter(
    context_name: ContextName, query: Annotated[DeadLetterDetailQuery, Query()], context: Ctx
) -> views.DeadLetterDetailView:
    """Reads one dead letter with its payload."""
    operator = context.backends.events[context_name]
    request = pb.GetDeadLetterRequest(
        consumer=query.consumer, aggregate=query.aggregate, sequence=query.sequence
    )
    return views.dead_letter_detail(await context.call(operator, operator.stub.GetDeadLetter, request))


@ROUTER.post("/dead-letters/replay", responses=problems(_NO_LETTER))
@allow(Access.ADMIN)
async def replay_dead_letters(
    context_name: ContextName, body: DeadLetterReplay, context: Ctx
) -> views.ReplayView:
    """Applies what is parked of an aggregate, or of every halted one, in order, until one fails again."""
    operator = context.backends.events[context_name]
    request = pb.ReplayDeadLettersRequest(
        consumer=body.consumer,
        aggregate=body.aggregate,
        actor=context.user_id,
        reason=body.reason,
        page_token=body.page_token,
    )
    rpc = operator.stub.ReplayDeadLetters
    reply = await context.call(operator, rpc, request, timeout_seconds=REPLAY_TIMEOUT_SECONDS)
    return views.replay(reply)


@ROUTER.post("/dead-letters/discard", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def discard_dead_letter(
    context_name: ContextName, body: DeadLetterDiscard, context: Ctx
) -> views.DiscardView:
    """Gives up the first event that is parked of an aggregate: its effect will never be."""
    operator = context.backends.events[context_name]
    request = pb.DiscardDeadLetterRequest(
        consumer=body.consumer,
        aggregate=body.aggregate,
        sequence=body.sequence,
        actor=context.user_id,
        reason=body.reason,
    )
    reply = await context.call(operator, operator.stub.DiscardDeadLetter, request)
    return views.DiscardView(left=reply.left)


@ROUTER.post("/consumers/{consumer}/pause", responses=problems(_NO_CONSUMER))
@allow(Access.ADMIN)
async def pause_consumer(
    context_name: ContextName, consumer: ConsumerName, body: EventVerb, context: Ctx
) -> views.ConsumerStateView:
    """Stops a consumer, in all processes, until it is resumed."""
    operator = context.backends.events[context_name]
    request = pb.PauseConsumerRequest(consumer=consumer, actor=context.user_id, reason=body.reason)
    reply = await context.call(operator, operator.stub.PauseConsumer, request)
    return views.ConsumerStateView(consumer=consumer, state=views.consumer_state(reply.state))


@ROUTER.post("/consumers/{consumer}/resume", responses=problems(_NO_CONSUMER))
@allow(Access.ADMIN)
async def resume_consumer(
    context_name: ContextName, consumer: ConsumerName, body: EventVerb, context: Ctx
) -> views.ConsumerStateView:
    """Lets a consumer go on that was paused, or that halted because too much failed in a row."""
    operator = context.backends.events[context_name]
    request = pb.ResumeConsumerRequest(consumer=consumer, actor=context.user_id, reason=body.reason)
    reply = await context.call(operator, operator.stub.ResumeConsumer, request)
    return views.ConsumerStateView(consumer=consumer, state=views.consumer_state(reply.state))


@ROUTER.get("/projections")
@allow(Access.ADMIN)
async def list_projections(context_name: ContextName, context: Ctx) -> Page[views.ProjectionView]:
    """Lists the projections of a context; they have one page."""
    operator = context.backends.events[context_name]
    reply = await context.call(operator, operator.stub.ListProjections, pb.ListProjectionsRequest())
    return Page(items=[views.projection(each) for each in reply.projections])


@ROUTER.post("/projections/{projection}/rebuild", responses=problems(_NO_PROJECTION))
@allow(Access.ADMIN)
async def rebuild_projection(
    context_name: ContextName, projection: ProjectionName, body: EventVerb, context: Ctx
) -> views.ProjectionView:
    """Builds a projection anew beside the one that serves; one that is being built goes on."""
    operator = context.backends.events[context_name]
    request = pb.RebuildProjectionRequest(projection=projection, actor=context.user_id, reason=body.reason)
    reply = await context.call(operator, operator.stub.RebuildProjection, request)
    return views.projection(reply.projection)


@ROUTER.get("/audit")
@allow(Access.ADMIN)
async def list_audit_entries(
    context_name: ContextName, query: Annotated[PageQuery, Query()], context: Ctx
) -> Page[views.AuditEntryView]:
    """Lists what operators did to a context's events, newest first."""
    operator = context.backends.events[context_name]
    request = pb.ListAuditEntriesRequest(page_size=query.page_size, page_token=query.page_token)
    reply = await context.call(operator, operator.stub.ListAuditEntries, request)
    return Page(
        items=[views.audit_entry(entry) for entry in reply.entries],
        next_page_token=reply.next_page_token or None,
    )
