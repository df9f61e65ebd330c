"""Fault to google.rpc.Status and back (https://google.aip.dev/193)."""

from __future__ import annotations

from datetime import timedelta

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from chassis.errors import Detail, Fault, FaultKind

STATUS_METADATA_KEY = "grpc-status-details-bin"
RECORDED = "recorded"
# A status travels in the trailing metadata, which has a limit of its own (grpc_metadata).
MAX_DETAILS = 100
MAX_DESCRIPTION_CHARACTERS = 200
PRECONDITION_TYPE = "SAGACITY"


def status_code(kind: FaultKind) -> grpc.StatusCode:
    """The gRPC status of a kind of fault."""
    return grpc.StatusCode[kind.name]


def to_status(fault: Fault, domain: str) -> status_pb2.Status:
    """The rich status of a fault; `domain` says who speaks where the fault does not."""
    status = status_pb2.Status(code=code_pb2.Code.Value(fault.kind.name), message=fault.message)
    info = error_details_pb2.ErrorInfo(reason=fault.reason, domain=fault.domain or domain)
    if fault.recorded:
        info.metadata[RECORDED] = "true"
    status.details.add().Pack(info)
    if fault.fields:
        bad = error_details_pb2.BadRequest()
        for detail in fault.fields[:MAX_DETAILS]:
            bad.field_violations.add(field=detail.subject, description=_short(detail))
        status.details.add().Pack(bad)
    if fault.subjects:
        failure = error_details_pb2.PreconditionFailure()
        for detail in fault.subjects[:MAX_DETAILS]:
            failure.violations.add(type=PRECONDITION_TYPE, subject=detail.subject, description=_short(detail))
        status.details.add().Pack(failure)
    if fault.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(fault.retry_after)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


# gRPC's own words name addresses of ours; what reaches a client of another service is a sentence of our own.
_UNREACHED = {
    FaultKind.UNAVAILABLE: "the service cannot be reached",
    FaultKind.DEADLINE_EXCEEDED: "the service did not answer in time",
    FaultKind.UNIMPLEMENTED: "the service does not know this method",
    FaultKind.RESOURCE_EXHAUSTED: "the service is overloaded",
    FaultKind.CANCELLED: "the call was cancelled",
}


def from_error(error: grpc.aio.AioRpcError) -> Fault:
    """The fault behind a failed call; one without our details has the domain ""."""
    kind = FaultKind[error.code().name]
    status = _status(error)
    info = error_details_pb2.ErrorInfo(reason=kind.name)
    fields: list[Detail] = []
    subjects: list[Detail] = []
    retry_after: timedelta | None = None
    for packed in status.details:
        bad = error_details_pb2.BadRequest()
        failure = error_details_pb2.PreconditionFailure()
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(bad):
            fields += [Detail(_text(item.field), _text(item.description)) for item in bad.field_violations]
        elif packed.Unpack(failure):
            subjects += [Detail(_text(item.subject), _text(item.description)) for item in failure.violations]
        elif packed.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
        else:
            packed.Unpack(info)
    return Fault(
        kind,
        _text(info.reason),
        _text(status.message) or _UNREACHED.get(kind, "the service failed"),
        fields=tuple(fields),
        subjects=tuple(subjects),
        retry_after=retry_after,
        recorded=info.metadata.get(RECORDED) == "true",
        domain=info.domain,
    )


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_METADATA_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _text(foreign: str) -> str:
    """Text that PostgreSQL takes: a NUL in it would keep a journal from ever recording the fault."""
    return foreign.replace("\x00", "")


def _short(detail: Detail) -> str:
    return detail.description[:MAX_DESCRIPTION_CHARACTERS]
