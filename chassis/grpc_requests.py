"""From bytes to a request that keeps its proto's rules; anything else is the caller's error, never ours."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc
import protovalidate
from google.protobuf.message import DecodeError

from chassis.errors import Detail, Fault, FaultKind

# Quoted: the class takes parameters only in its stubs.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def parse(handler: Handler, raw: bytes) -> Any:
    """Decode and validate a request of `handler`.

    Raises:
        Fault: INVALID_ARGUMENT; with one field a violation, where the bytes are a message.
    """
    try:
        request = handler.request_deserializer(raw)  # type: ignore[misc]
    except (DecodeError, ValueError):
        raise Fault(FaultKind.INVALID_ARGUMENT, "NOT_A_REQUEST", "the request cannot be decoded") from None
    try:
        protovalidate.validate(request)
    except protovalidate.ValidationError as error:
        fields = tuple(Detail(_path(violation), violation.proto.message) for violation in error.violations)
        raise Fault(
            FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "the request is not valid", fields=fields
        ) from None
    return request


def _path(violation: protovalidate.Violation) -> str:
    """The field of a violation, as `items[0].quantity`."""
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            path += f"[{subscript.value}]"
    return path
