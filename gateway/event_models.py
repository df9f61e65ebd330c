"""The JSON that admins send to look into events and repair them."""

from typing import Annotated, Any, Final, Literal

from fastapi import Path
from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from gateway.models import DEFAULT_PAGE_SIZE, Body, PageSize, Query, Reason

# Names of Kafka, of consumers and of aggregates: whatever is one line.
_LINE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
MAX_SEQUENCE: Final = 2**63 - 1


def _digits(value: Any) -> Any:
    """Refuses what int() takes beside digits."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 19):
        raise PydanticCustomError("int_parsing", "Input should be a whole number")
    return value


_Name = StringConstraints(min_length=1, max_length=200, pattern=_LINE_PATTERN)
_Filter = StringConstraints(max_length=200, pattern=_LINE_PATTERN)
_AGGREGATE_EXAMPLE: Final = "sagacity.orders.v1/order/018f7e9c-5d1a-7c3e-9b1f-2a6d4c8e0f11"

ContextName = Annotated[
    Literal["users", "inventory", "payments", "orders"],
    Path(alias="context", description="Whose events these are."),
]
ConsumerName = Annotated[str, _Name, Path(examples=["users.customer-statistics"])]
ProjectionName = Annotated[str, _Name, Path(examples=["order-history"])]
Consumer = Annotated[str, _Name, Field(examples=["users.customer-statistics"])]
Aggregate = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=_LINE_PATTERN),
    Field(examples=[_AGGREGATE_EXAMPLE], description="`<topic>/<aggregate type>/<aggregate id>`."),
]


# It names an aggregate, whose name may be long.
LetterToken = Annotated[str, StringConstraints(max_length=4_000, pattern=r"^[A-Za-z0-9_=.~-]*$")]


class DeadLetterQuery(Query):
    """Which dead letters to list."""

    page_size: PageSize = DEFAULT_PAGE_SIZE
    page_token: LetterToken = ""
    consumer: Annotated[str, _Filter] = ""
    aggregate: Annotated[str, StringConstraints(max_length=500, pattern=_LINE_PATTERN)] = ""
    type: Annotated[str, _Filter] = ""


class DeadLetterDetailQuery(Query):
    """Which dead letter to read."""

    consumer: Consumer
    aggregate: Aggregate
    sequence: Annotated[int, BeforeValidator(_digits), Field(ge=1, le=MAX_SEQUENCE)]


class EventVerb(Body):
    """Why an operator asks for it; it is audited, with who asked."""

    reason: Annotated[Reason, Field(examples=["the handler is repaired"])]


class DeadLetterReplay(EventVerb):
    """What to apply again: what is parked of an aggregate, or without one of every halted aggregate."""

    consumer: Consumer
    # Absent is every one; neither empty nor null is a second way to say so.
    aggregate: Aggregate = ""
    page_token: Annotated[LetterToken, Field(description="Of the answer before, to go on with the rest.")] = (
        ""
    )


class DeadLetterDiscard(EventVerb):
    """Which event to give up; it has to be the first that is parked of its aggregate."""

    consumer: Consumer
    aggregate: Aggregate
    sequence: Annotated[int, Field(ge=1, le=MAX_SEQUENCE, examples=[3])]
