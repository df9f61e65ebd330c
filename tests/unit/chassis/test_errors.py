import grpc
import pytest

from chassis.errors import Detail, Fault, FaultKind


def test_kinds_are_the_status_codes_of_grpc_without_ok() -> None:
    assert {kind.name for kind in FaultKind} == {code.name for code in grpc.StatusCode} - {"OK"}


def test_a_fault_comes_back_from_json_as_it_went() -> None:
    fault = Fault(
        FaultKind.FAILED_PRECONDITION,
        "OUT_OF_STOCK",
        "not enough in stock",
        fields=(Detail("items[0].quantity", "is too high"),),
        subjects=(Detail("SKU-1", "2 are left"),),
    )
    back = Fault.from_json(fault.to_json(), recorded=True)
    assert back.to_json() == fault.to_json()
    assert back.recorded


def test_the_json_of_a_refusal_that_sql_built_may_leave_the_lists_out() -> None:
    fault = Fault.from_json({"kind": "NOT_FOUND", "reason": "NO_ORDER", "message": "no such order"})
    assert (fault.kind, fault.fields, fault.subjects) == (FaultKind.NOT_FOUND, (), ())


def test_an_unknown_kind_is_no_fault() -> None:
    with pytest.raises(ValueError, match="TEAPOT"):
        Fault.from_json({"kind": "TEAPOT", "reason": "R", "message": "m"})
