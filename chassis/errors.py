"""The one error type that crosses processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Self


class FaultKind(StrEnum):
    """The names of gRPC's status codes, OK left out."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


# What another attempt could not change: the barrier may store it, and a saga turns back or parks for it.
# Anything else may be over soon, and says nothing about what happened.
REFUSALS = frozenset(
    {
        FaultKind.FAILED_PRECONDITION,
        FaultKind.INVALID_ARGUMENT,
        FaultKind.NOT_FOUND,
        FaultKind.ALREADY_EXISTS,
        FaultKind.PERMISSION_DENIED,
        FaultKind.OUT_OF_RANGE,
    }
)


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing that is wrong: a field or a subject such as a SKU, and what is wrong with it."""

    subject: str
    description: str


class Fault(Exception):  # noqa: N818 - it is not always an error: a refusal is an answer
    """A refusal or a failure that a caller can tell apart.

    Attributes:
        kind: The gRPC status.
        reason: UPPER_SNAKE code, stable, for programs.
        message: A sentence for people; never a secret, SQL or a stack trace.
        fields: Fields of the request that are wrong.
        subjects: Preconditions that do not hold, for example one per SKU that is short.
        retry_after: How long to wait before the next try, where the sender knows.
        recorded: The participant's barrier holds this refusal: an earlier attempt cannot land any more.
        domain: Who says so, for example "sagacity.orders"; empty where it is not one of ours.
    """

    def __init__(
        self,
        kind: FaultKind,
        reason: str,
        message: str,
        *,
        fields: tuple[Detail, ...] = (),
        subjects: tuple[Detail, ...] = (),
        retry_after: timedelta | None = None,
        recorded: bool = False,
        domain: str = "",
    ) -> None:
        super().__init__(f"{kind} {reason}: {message}")
        self.kind = kind
        self.reason = reason
        self.message = message
        self.fields = fields
        self.subjects = subjects
        self.retry_after = retry_after
        self.recorded = recorded
        self.domain = domain

    def to_json(self) -> dict[str, Any]:
        """What a barrier or a journal stores of it; SQL may build the same object."""
        return {
            "kind": str(self.kind),
            "reason": self.reason,
            "message": self.message,
            "fields": [_detail_json(detail) for detail in self.fields],
            "subjects": [_detail_json(detail) for detail in self.subjects],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, recorded: bool = False) -> Self:
        """Make the Fault that `to_json` was made of."""
        return cls(
            FaultKind(data["kind"]),
            data["reason"],
            data["message"],
            fields=tuple(Detail(**item) for item in data.get("fields") or ()),
            subjects=tuple(Detail(**item) for item in data.get("subjects") or ()),
            recorded=recorded,
        )


def _detail_json(detail: Detail) -> dict[str, str]:
    return {"subject": detail.subject, "description": detail.description}
