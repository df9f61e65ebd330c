"""What operators look at: the sagas. Read only in this release."""

from typing import Annotated, Final

from fastapi import Path, Query

from gateway import render
from gateway.auth import Access
from gateway.context import Ctx
from gateway.models import SagaQuery, UuidText
from gateway.openapi import problems
from gateway.routing import API, allow, router
from gateway.views import Page, SagaView, TimelineEntryView
from sagacity.sagas.v1 import sagas_pb2

ROUTER = router(f"{API}/admin/sagas", tags=["admin"])

_NOT_FOUND: Final = {404: "There is no such saga"}


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
    )
    reply = await context.call(operator, operator.stub.ListSagas, request)
    return Page(
        items=[render.saga(saga) for saga in reply.sagas], next_page_token=reply.next_page_token or None
    )


@ROUTER.get("/{saga_id}", responses=problems(_NOT_FOUND))
@allow(Access.ADMIN)
async def read_saga(saga_id: Annotated[UuidText, Path()], context: Ctx) -> SagaView:
    """Reads one saga."""
    operator = context.backends.operator
    reply = await context.call(operator, operator.stub.GetSaga, sagas_pb2.GetSagaRequest(saga_id=saga_id))
    return render.saga(reply.saga)


@ROUTER.get("/{saga_id}/timeline", responses=problems(_NOT_FOUND))
@allow(Access.ADMIN)
async def read_timeline(saga_id: Annotated[UuidText, Path()], context: Ctx) -> Page[TimelineEntryView]:
    """Reads what a saga did, oldest first; it has one page."""
    operator = context.backends.operator
    request = sagas_pb2.GetTimelineRequest(saga_id=saga_id)
    reply = await context.call(operator, operator.stub.GetTimeline, request)
    return Page(items=[render.timeline_entry(entry) for entry in reply.entries])
