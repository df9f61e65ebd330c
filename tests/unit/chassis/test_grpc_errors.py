from datetime import timedelta

import grpc
import grpc.aio

from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_errors import MAX_DETAILS, STATUS_METADATA_KEY, from_error, to_status


def travelled(fault: Fault) -> Fault:
    status = to_status(fault, "sagacity.orders")
    trailing = grpc.aio.Metadata((STATUS_METADATA_KEY, status.SerializeToString()))
    code = grpc.StatusCode[fault.kind.name]
    return from_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=fault.message))


def test_a_fault_crosses_a_call_whole() -> None:
    fault = Fault(
        FaultKind.FAILED_PRECONDITION,
        "OUT_OF_STOCK",
        "not enough in stock",
        fields=(Detail("lines[1]", "is short"),),
        subjects=(Detail("SKU-1", "2 are left"), Detail("SKU-2", "none is left")),
        retry_after=timedelta(milliseconds=1500),
        recorded=True,
    )
    back = travelled(fault)
    assert back.to_json() == fault.to_json()
    assert (back.retry_after, back.recorded) == (fault.retry_after, True)


def test_the_speaker_is_named_where_the_fault_names_nobody() -> None:
    assert travelled(Fault(FaultKind.NOT_FOUND, "NO_ORDER", "no")).domain == "sagacity.orders"


def test_a_fault_that_is_passed_on_keeps_its_first_speaker() -> None:
    fault = Fault(FaultKind.NOT_FOUND, "NO_USER", "no", domain="sagacity.users")
    assert travelled(fault).domain == "sagacity.users"


def test_an_error_of_the_transport_has_no_domain() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no connection"
    )
    fault = from_error(error)
    assert (fault.kind, fault.reason, fault.domain) == (FaultKind.UNAVAILABLE, "UNAVAILABLE", "")
    assert not fault.recorded


def test_the_number_of_details_is_bounded() -> None:
    many = tuple(Detail(f"items[{n}]", "x" * 1_000) for n in range(MAX_DETAILS + 50))
    back = travelled(Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "wrong", fields=many))
    assert len(back.fields) == MAX_DETAILS
