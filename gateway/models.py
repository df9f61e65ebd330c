"""The JSON that clients send: strict types, no unknown fields.

`1.0`, `"1"` and `true` are not integers here.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)
from pydantic_core import PydanticCustomError

MAX_MINOR_UNITS: Final = 10**12
MAX_ORDER_ITEMS: Final = 100
MAX_QUANTITY: Final = 1_000_000
MAX_STOCK_DELTA: Final = 10**9
MAX_PAGE_SIZE: Final = 200
DEFAULT_PAGE_SIZE: Final = 50

_UUID_PATTERN: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_SKU_PATTERN: Final = r"^[A-Z0-9][A-Z0-9._-]{0,63}$"
# Text of one line: no control characters, line or paragraph separators, nor what turns the writing direction.
_LINE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"

UuidText = Annotated[
    str,
    StringConstraints(pattern=_UUID_PATTERN, to_lower=True),
    Field(json_schema_extra={"format": "uuid"}, examples=["018f7e9c-5d1a-7c3e-9b1f-2a6d4c8e0f11"]),
]
Sku = Annotated[str, StringConstraints(pattern=_SKU_PATTERN), Field(examples=["KEYBOARD-US"])]
Currency = Annotated[
    str, StringConstraints(pattern="^[A-Z]{3}$"), Field(examples=["EUR"], description="ISO 4217 code.")
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_LINE_PATTERN)]
Description = Annotated[str, StringConstraints(max_length=4000)]
Category = Annotated[str, StringConstraints(max_length=100, pattern=_LINE_PATTERN)]
LowStockThreshold = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_STOCK_DELTA,
        examples=[10],
        description="Fewer available units are low, which is published; 0: never.",
    ),
]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=_LINE_PATTERN)]


def _decimal_digits(value: Any) -> Any:
    """Refuses what int() takes beside digits: ` 1`, `1_0`, `+1`, `1.0`."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise PydanticCustomError("int_parsing", "Input should be a whole number")
    return value


def _amount_digits(value: Any) -> Any:
    """As `_decimal_digits`, of amounts."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 13):
        raise PydanticCustomError("int_parsing", "Input should be a whole number")
    return value


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise PydanticCustomError("datetime_parsing", "Input should be a time as in RFC 3339") from None
    return text


PageSize = Annotated[int, BeforeValidator(_decimal_digits), Field(ge=1, le=MAX_PAGE_SIZE)]
PageToken = Annotated[str, StringConstraints(max_length=500, pattern=r"^[A-Za-z0-9_=.~-]*$")]


class Body(BaseModel):
    """A JSON object of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Query(BaseModel):
    """The query string of a request: text, so its numbers are parsed; unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PageQuery(Query):
    """Which page of a list."""

    page_size: PageSize = DEFAULT_PAGE_SIZE
    page_token: PageToken = ""


class Money(Body):
    """An amount in the smallest unit of its currency: 1234 with EUR is 12.34 euro."""

    currency: Currency
    amount_minor: Annotated[int, Field(ge=0, le=MAX_MINOR_UNITS, examples=[1234])]


class NewUser(Body):
    """A registration."""

    email: Annotated[
        str,
        StringConstraints(min_length=3, max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$"),
        Field(examples=["ada@example.com"]),
    ]
    password: Annotated[
        str, StringConstraints(min_length=10, max_length=128), Field(examples=["correct horse battery"])
    ]
    display_name: Annotated[
        str, StringConstraints(min_length=1, max_length=100, pattern=_LINE_PATTERN), Field(examples=["Ada"])
    ]


class NewSession(Body):
    """A login."""

    email: Annotated[
        str, StringConstraints(min_length=1, max_length=254), Field(examples=["ada@example.com"])
    ]
    password: Annotated[
        str, StringConstraints(min_length=1, max_length=128), Field(examples=["correct horse battery"])
    ]


class PostalAddress(Body):
    """Where something is sent to."""

    recipient: Annotated[Name, Field(examples=["Ada Lovelace"])]
    line1: Annotated[Name, Field(examples=["Hauptstrasse 1"])]
    line2: Annotated[str, StringConstraints(max_length=200, pattern=_LINE_PATTERN)] = ""
    city: Annotated[
        str,
        StringConstraints(min_length=1, max_length=100, pattern=_LINE_PATTERN),
        Field(examples=["Berlin"]),
    ]
    region: Annotated[str, StringConstraints(max_length=100, pattern=_LINE_PATTERN)] = ""
    postal_code: Annotated[
        str, StringConstraints(max_length=20, pattern=_LINE_PATTERN), Field(examples=["10115"])
    ] = ""
    country_code: Annotated[
        str,
        StringConstraints(pattern="^[A-Z]{2}$"),
        Field(examples=["DE"], description="ISO 3166-1 alpha-2 code."),
    ]


class NewPaymentMethod(Body):
    """A provider's token; never a card number."""

    provider_token: Annotated[
        str, StringConstraints(pattern="^tok_[A-Za-z0-9_]{1,100}$"), Field(examples=["tok_success"])
    ]


class NewProduct(Body):
    """A product to sell; it begins with no stock."""

    sku: Sku
    name: Annotated[Name, Field(examples=["Keyboard, US layout"])]
    description: Description = ""
    category: Category = ""
    unit_price: Money
    low_stock_threshold: LowStockThreshold = 0


def _without_null(schema: dict[str, Any]) -> None:
    """Takes null out of the documented types: it is there for "absent" only."""
    for name, member in schema["properties"].items():
        if "anyOf" in member:
            kept = [choice for choice in member.pop("anyOf") if choice != {"type": "null"}]
            member.pop("default")
            schema["properties"][name] = {**member, **kept[0]}


def _not_null(value: Any) -> Any:
    # Absent means "leave it"; null would be a second way to say it, or a wish that cannot be fulfilled.
    if value is None:
        raise PydanticCustomError("null", "Input should not be null")
    return value


class ProductPatch(Body):
    """What to change of a product; what is absent stays as it is."""

    model_config = ConfigDict(json_schema_extra=_without_null)

    name: Name | None = None
    description: Description | None = None
    category: Category | None = None
    unit_price: Money | None = None
    active: bool | None = None
    low_stock_threshold: LowStockThreshold | None = None

    _no_nulls = field_validator("*", mode="before")(_not_null)


class StockAdjustment(Body):
    """A correction of the stock on hand."""

    delta: Annotated[
        int,
        Field(
            ge=-MAX_STOCK_DELTA,
            le=MAX_STOCK_DELTA,
            examples=[100],
            description="Units to add; negative takes away; never 0.",
        ),
    ]
    reason: Annotated[Reason, Field(examples=["delivery 4711"])]

    @field_validator("delta")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("Input should not be 0")
        return value


class OrderItem(Body):
    """Units of one product; items of the same SKU are summed."""

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY, examples=[2])]


class NewOrder(Body):
    """What a customer asks for."""

    items: Annotated[list[OrderItem], Field(min_length=1, max_length=MAX_ORDER_ITEMS)]
    currency: Currency
    address_id: UuidText
    payment_method_id: UuidText
    expected_total: Annotated[
        Money | None,
        Field(description="What the customer expects to pay; another total is refused with PRICE_CHANGED."),
    ] = None


class Cancellation(Body):
    """Why an order is cancelled."""

    reason: Annotated[Reason, Field(examples=["ordered twice"])]


class RefundLine(Body):
    """Units of one product of the order; lines of the same SKU are summed."""

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY, examples=[1])]


class RefundAmount(Money):
    """What goes back, in the order's currency; above 0."""

    amount_minor: Annotated[int, Field(ge=1, le=MAX_MINOR_UNITS, examples=[500])]


class NewRefund(Body):
    """What goes back: for `lines`, or an `amount`, or without either all that is left."""

    model_config = ConfigDict(json_schema_extra=_without_null)

    reason: Annotated[Reason, Field(examples=["arrived broken"])]
    lines: Annotated[list[RefundLine] | None, Field(min_length=1, max_length=MAX_ORDER_ITEMS)] = None
    amount: RefundAmount | None = None
    restock: Annotated[
        bool, Field(description="Whether the units are on hand again; not with an amount.")
    ] = False

    _no_nulls = field_validator("*", mode="before")(_not_null)


class NewShipment(Body):
    """How an order travels."""

    carrier: Annotated[
        str,
        StringConstraints(min_length=1, max_length=100, pattern=_LINE_PATTERN),
        Field(examples=["DHL"]),
    ]
    tracking_number: Annotated[
        str,
        StringConstraints(max_length=100, pattern=_LINE_PATTERN),
        Field(examples=["00340434161094015902"]),
    ] = ""


class ProductQuery(PageQuery):
    """Which products to list."""

    category: Category = ""
    include_inactive: Literal["true", "false"] = "false"


OrderStateName = Literal["pending", "confirmed", "rejected", "cancelled", "shipped", "delivered"]
SagaStateName = Literal["running", "compensating", "waiting", "paused", "parked", "completed", "compensated"]


_TIME_PATTERN: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$"
# Text first: a number would pass for seconds since 1970.
Moment = Annotated[
    str,
    StringConstraints(pattern=_TIME_PATTERN),
    AfterValidator(_moment),
    Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-31T23:59:59Z"]),
]
AmountMinor = Annotated[int, BeforeValidator(_amount_digits), Field(ge=0, le=MAX_MINOR_UNITS)]


class OrderQuery(PageQuery):
    """Which orders to list: the caller's own, or for staff those of a user, or everybody's.

    `currency` and the bounds of the total are for `sort=total`, which needs the currency; times are for the
    other two.
    """

    state: Annotated[
        list[OrderStateName],
        Field(max_length=6, description="One of these; repeat the parameter for several."),
    ] = []
    sort: Annotated[
        Literal["newest", "oldest", "total"], Field(description="`total`: the dearest first.")
    ] = "newest"
    created_from: Annotated[Moment | None, Field(description="Placed then or later.")] = None
    created_before: Annotated[Moment | None, Field(description="Placed before then.")] = None
    currency: Currency | None = None
    min_total_minor: AmountMinor | None = None
    max_total_minor: AmountMinor | None = None
    user_id: Annotated[UuidText | None, Field(description="Whose orders, for staff.")] = None
    everybody: Annotated[Literal["true", "false"], Field(description="All orders, for staff.")] = "false"


_NamePattern = StringConstraints(pattern=r"^([a-z][a-z0-9_]{0,62})?$")


class SagaQuery(PageQuery):
    """Which sagas to list."""

    state: SagaStateName | None = None
    kind: Annotated[str, _NamePattern] = ""
    order_id: UuidText | None = None
    step: Annotated[str, _NamePattern] = ""
    error_fingerprint: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,63}$")] = ""
    older_than_seconds: Annotated[int, BeforeValidator(_decimal_digits), Field(ge=0)] | None = None
    open: Literal["true", "false"] = "false"
    archived: Literal["true", "false"] = "false"


SagaVerbName = Literal["retry", "skip", "compensate", "pause", "resume", "cancel"]
StepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
OutputJson = Annotated[str, StringConstraints(min_length=2, max_length=32_768)]


class SagaVerb(Body):
    """Why an operator asks for it; it is journaled with the saga, with who asked."""

    reason: Annotated[Reason, Field(examples=["the provider is back"])]


class SagaSkip(SagaVerb):
    """Which step is taken for done, and the reply that it is taken to have given, as JSON text."""

    step: Annotated[StepName, Field(examples=["restock"])]
    output_json: Annotated[OutputJson, Field(examples=["{}"])]


class SagaPreviewQuery(Query):
    """Which verb to preview; `step` and `output_json` are for skip."""

    verb: SagaVerbName
    step: Annotated[str, _NamePattern] = ""
    output_json: Annotated[str, StringConstraints(max_length=8_192, pattern=r"^[^\x00]*$")] = ""
