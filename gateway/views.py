"""The JSON that clients get. Times are RFC 3339 in UTC, money is minor units, states are lower-case words."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class View(BaseModel):
    """A JSON object of a response."""

    model_config = ConfigDict(frozen=True)


class Page(View, Generic[Item]):
    """One page of a list; `next_page_token` is null on the last."""

    items: list[Item]
    next_page_token: str | None = None


class MoneyView(View):
    """An amount in the smallest unit of its currency."""

    currency: Annotated[str, Field(examples=["EUR"])]
    amount_minor: Annotated[int, Field(examples=[1234])]


class UserView(View):
    """A person with an account; of a deactivated one `email` and `display_name` are empty."""

    id: str
    email: str
    display_name: str
    role: Annotated[str, Field(examples=["customer"])]
    state: Annotated[str, Field(examples=["active"])]
    create_time: datetime | None
    deactivate_time: datetime | None = None


class SessionView(View):
    """A login: send the token as `Authorization: Bearer ...`."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the scheme, no secret
    expire_time: datetime | None
    user: UserView


class AddressView(View):
    """A postal address."""

    recipient: str
    line1: str
    line2: str
    city: str
    region: str
    postal_code: str
    country_code: str


class UserAddressView(AddressView):
    """An entry of the address book."""

    id: str
    create_time: datetime | None


class PaymentMethodView(View):
    """A way to pay; brand and last four digits are for people."""

    id: str
    provider: str
    brand: str
    last4: str
    create_time: datetime | None


class StatisticsView(View):
    """What a customer ordered, and spent less what went back, as far as the events have arrived."""

    user_id: str
    orders_placed: int
    orders_confirmed: int
    orders_rejected: int
    orders_cancelled: int
    amount_spent: list[MoneyView]


class ProductView(View):
    """A product; `available` is what can be ordered now, and low below `low_stock_threshold` (0: never)."""

    sku: str
    name: str
    description: str
    category: str
    unit_price: MoneyView
    active: bool
    available: int
    low_stock_threshold: int
    etag: str
    create_time: datetime | None
    update_time: datetime | None


class StockView(View):
    """Units of a product: `available` is `on_hand` less `reserved`."""

    sku: str
    on_hand: int
    reserved: int
    available: int


class OrderItemView(View):
    """What was asked for."""

    sku: str
    quantity: int


class OrderLineView(OrderItemView):
    """What was sold, with the name and price of that moment."""

    name: str
    unit_price: MoneyView
    line_total: MoneyView


class RejectionView(View):
    """Why an order was rejected."""

    reason: Annotated[str, Field(examples=["INSUFFICIENT_STOCK"])]
    message: str


class RefundLineView(View):
    """Units that a refund was for."""

    sku: str
    quantity: int


class OrderRefundView(View):
    """Money that went back; `lines` is empty where it was by amount."""

    id: str
    amount: MoneyView
    lines: list[RefundLineView]
    reason: str
    create_time: datetime | None


class ShipmentView(View):
    """How an order travels."""

    carrier: Annotated[str, Field(examples=["DHL"])]
    tracking_number: str


class OrderView(View):
    """An order. Lines, amounts, address, payment and reservation are there once it is confirmed.

    `refunded` is null while nothing went back; `shipment` is there once it is shipped.
    """

    id: str
    order_number: str
    user_id: str
    state: Annotated[str, Field(examples=["confirmed"])]
    refund_state: Annotated[str, Field(examples=["none"])]
    currency: str
    items: list[OrderItemView]
    lines: list[OrderLineView]
    subtotal: MoneyView | None
    discount: MoneyView | None
    shipping: MoneyView | None
    tax: MoneyView | None
    total: MoneyView | None
    shipping_address: AddressView | None
    payment_id: str | None
    reservation_id: str | None
    rejection: RejectionView | None
    cancellation_reason: str | None
    refunded: MoneyView | None
    refunds: list[OrderRefundView]
    shipment: ShipmentView | None
    create_time: datetime | None
    update_time: datetime | None


class OrderFactView(View):
    """A fact about an order; refund and amount are there where money went back."""

    sequence: Annotated[int, Field(description="From 1 without gaps, for each order.")]
    fact: Annotated[str, Field(examples=["confirmed"], description="What happened, in one word.")]
    state: Annotated[str, Field(examples=["confirmed"], description="Where the order stood after it.")]
    time: datetime | None
    refund_id: str | None
    amount: MoneyView | None


class OrderEventView(OrderFactView):
    """A fact as the stream tells it, with the order as it stands now: it may be further on."""

    order: OrderView


class OrderInProgress(View):
    """What is asked of an order is accepted and not at its end yet: `Location` says where to look."""

    order_id: str
    state: Annotated[str, Field(examples=["pending"], description="pending or undoing")]


class RefusalDetailView(View):
    """A subject of a refusal, for example a SKU, and what is wrong with it."""

    subject: str
    description: str


class RefusalView(View):
    """Which step of a saga refused, and why."""

    step: str
    reason: str
    message: str
    details: list[RefusalDetailView]


class SagaView(View):
    """A saga, as operators see it."""

    id: str
    kind: str
    version: int
    state: Annotated[str, Field(examples=["completed"])]
    order_id: str
    sequence: int
    epoch: int
    owner: str | None
    attempts: int
    next_attempt_time: datetime | None
    deadline_time: datetime | None
    create_time: datetime | None
    update_time: datetime | None
    refusal: RefusalView | None
    step: Annotated[str | None, Field(description="The step that is being tried.")]
    waiting_for: Annotated[str | None, Field(description="The participant that it waits for.")]
    error_fingerprint: Annotated[str | None, Field(description="Equal for equal errors.")]
    last_error: str | None
    overdue: bool
    pivot_intended: Annotated[bool, Field(description="From then on it only goes forward.")]


class PlannedCallView(View):
    """A call that would be sent; `request` is null where it depends on replies that are not known yet."""

    step: str
    operation: Annotated[str, Field(examples=["undo"])]
    rpc: Annotated[str, Field(examples=["/sagacity.payments.v1.Payments/Reverse"])]
    request: dict[str, Any] | None


class SagaPlanView(View):
    """What a verb would send, in order, and where the saga would stand were all of it to succeed."""

    calls: list[PlannedCallView]
    state: Annotated[str, Field(examples=["compensated"])]


class TimelineEntryView(View):
    """An entry of a saga's journal."""

    sequence: int
    step: str
    operation: str
    attempt: int
    outcome: str
    detail: str
    time: datetime | None
    actor: Annotated[str | None, Field(description="Who asked, for an operator's verb.")]
    reason: Annotated[str | None, Field(description="Why, for an operator's verb.")]


class FieldErrorView(View):
    """A field of the request and what is wrong with it."""

    field: Annotated[str, Field(examples=["items[0].quantity"])]
    message: str


class ProblemView(View):
    """An error (RFC 9457). `code` is for programs, `detail` for people.

    Quote `request_id` when you report it.
    """

    model_config = ConfigDict(frozen=True, extra="allow", title="Problem")

    type: Annotated[str, Field(examples=["urn:problem-type:sagacity:insufficient-stock"])]
    title: Annotated[str, Field(examples=["Conflict"])]
    status: Annotated[int, Field(examples=[409])]
    detail: str
    code: Annotated[str, Field(examples=["INSUFFICIENT_STOCK"])]
    request_id: str
    timestamp: datetime
    errors: list[FieldErrorView]
    order_id: str | None = None
    details: list[RefusalDetailView] | None = None


class HealthView(View):
    """Whether the gateway, or what it needs, is there."""

    status: Annotated[str, Field(examples=["ok"])]
    backends: dict[str, str] | None = None


Json = dict[str, Any]
