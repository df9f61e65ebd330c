"""What operators look at and repair: the sagas. Who asks for a verb is the admin who is logged in."""

from typing import Annotated, Final

from fastapi import Path, Query
from google.protobuf.duration_pb2 import Duration

from gateway import render
from gateway.auth import Access
from gateway.context import Ctx
from gateway.models import SagaPreviewQuery, SagaQuery, SagaSkip, SagaVerb, UuidText
from gateway.openapi import problems
from gateway.routing import API, allow, router
from gateway.views import Page, SagaPlanView, SagaView, TimelineEntryView
from sagacity.sagas.v1 import sagas_pb2

ROUTER = router(f"{API}/admin/sagas", tags=["admin"])

_NOT_FOUND: Final = {404: "There is no such saga"}
_REFUSED: Final = {
    **_NOT_FOUND,
    409: "The saga has ended, or stands where this is not possible; `code` says which",
}
_VERBS: Final = {"skip": sagas_pb2.SAGA_VERB_SKIP_STEP}

SagaId = Annotated[UuidText, Path()]


@ROUTER.get("")
@allow(Access.ADMIN)
async def list_sagas(query: Annotated[SagaQuery, Query()], context: Ctx) -> Page[SagaView]:
    """Lists sagas, newest first."""
    operator = context.backends.operator
    request = sagas_pb2.ListSagasRequest(
        page_size=query.page_size,
        page_token=query.page_token,
        state=sagas_pb2.SagaState.Value(f"SAGA_STATE_{(query.state or 'unspecified').upper()}"),
        kind=query.kind,
        order_id=query.order_id or "",
        step=query.step,
        error_fingerprint=query.error_fingerprint,
        older_than=None if query.older_than_seconds is None else Duration(seconds=query.older_than_seconds),
        open=query.open == "true",
        archived=query.archived == "true",
    )
    reply = await context.call(operator, operator.stub.ListSagas, request)
    return Page(
        items=[render.saga(saga) for saga in reply.sagas], next_page_token=reply.next_page_token or None
    )


@ROUTER.get("/{saga_id}", responses=problems(_NOT_FOUND))
@allow(Access.ADMIN)
async def read_saga(saga_id: SagaId, context: Ctx) -> SagaView:
    """Reads one saga."""
    operator = context.backends.operator
    reply = await context.call(operator, operator.stub.GetSaga, sagas_pb2.GetSagaRequest(saga_id=saga_id))
    return render.saga(reply.saga)


@ROUTER.get("/{saga_id}/timeline", responses=problems(_NOT_FOUND))
@allow(Access.ADMIN)
async def read_timeline(saga_id: SagaId, context: Ctx) -> Page[TimelineEntryView]:
    """Reads what a saga did, oldest first; it has one page."""
    operator = context.backends.operator
    request = sagas_pb2.GetTimelineRequest(saga_id=saga_id)
    reply = await context.call(operator, operator.stub.GetTimeline, request)
    return Page(items=[render.timeline_entry(entry) for entry in reply.entries])


@ROUTER.post("/{saga_id}/retry", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def retry_saga(saga_id: SagaId, body: SagaVerb, context: Ctx) -> SagaView:
    """Tries a saga again at once."""
    operator = context.backends.operator
    request = sagas_pb2.RetryRequest(saga_id=saga_id, actor=context.user_id, reason=body.reason)
    return render.saga((await context.call(operator, operator.stub.Retry, request)).saga)


@ROUTER.post("/{saga_id}/compensate", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def compensate_saga(saga_id: SagaId, body: SagaVerb, context: Ctx) -> SagaView:
    """Unwinds a saga whose pivot is not intended yet."""
    operator = context.backends.operator
    request = sagas_pb2.CompensateRequest(saga_id=saga_id, actor=context.user_id, reason=body.reason)
    return render.saga((await context.call(operator, operator.stub.Compensate, request)).saga)


@ROUTER.post("/{saga_id}/pause", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def pause_saga(saga_id: SagaId, body: SagaVerb, context: Ctx) -> SagaView:
    """Stops a saga until it is resumed; its deadline runs on."""
    operator = context.backends.operator
    request = sagas_pb2.PauseRequest(saga_id=saga_id, actor=context.user_id, reason=body.reason)
    return render.saga((await context.call(operator, operator.stub.Pause, request)).saga)


@ROUTER.post("/{saga_id}/resume", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def resume_saga(saga_id: SagaId, body: SagaVerb, context: Ctx) -> SagaView:
    """Lets a paused saga go on in the direction that it had."""
    operator = context.backends.operator
    request = sagas_pb2.ResumeRequest(saga_id=saga_id, actor=context.user_id, reason=body.reason)
    return render.saga((await context.call(operator, operator.stub.Resume, request)).saga)


@ROUTER.post("/{saga_id}/cancel", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def cancel_saga(saga_id: SagaId, body: SagaVerb, context: Ctx) -> SagaView:
    """Unwinds a saga in the customer's name: the order is rejected as CANCELLED."""
    operator = context.backends.operator
    request = sagas_pb2.CancelRequest(saga_id=saga_id, actor=context.user_id, reason=body.reason)
    return render.saga((await context.call(operator, operator.stub.Cancel, request)).saga)


@ROUTER.post("/{saga_id}/skip", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def skip_step(saga_id: SagaId, body: SagaSkip, context: Ctx) -> SagaView:
    """Takes a step of a saga for done, with the reply that is supplied."""
    operator = context.backends.operator
    request = sagas_pb2.SkipStepRequest(
        saga_id=saga_id,
        actor=context.user_id,
        reason=body.reason,
        step=body.step,
        output_json=body.output_json,
    )
    return render.saga((await context.call(operator, operator.stub.SkipStep, request)).saga)


@ROUTER.get("/{saga_id}/preview", responses=problems(_REFUSED))
@allow(Access.ADMIN)
async def preview_verb(
    saga_id: SagaId, query: Annotated[SagaPreviewQuery, Query()], context: Ctx
) -> SagaPlanView:
    """Says which calls a verb would send, and changes nothing."""
    operator = context.backends.operator
    request = sagas_pb2.PreviewRequest(
        saga_id=saga_id,
        verb=_VERBS.get(query.verb) or sagas_pb2.SagaVerb.Value(f"SAGA_VERB_{query.verb.upper()}"),
        step=query.step,
        output_json=query.output_json,
    )
    return render.saga_plan(await context.call(operator, operator.stub.Preview, request))
