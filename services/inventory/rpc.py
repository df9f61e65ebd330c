"""The gRPC surface: proto <-> domain, who may call what, and one table from domain error to Fault."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from uuid import UUID

import grpc.aio
import iso4217
from google.protobuf.timestamp_pb2 import Timestamp
from typing_extensions import override

from chassis import barrier
from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import Caller, current_caller
from chassis.page_tokens import decode_page_token, encode_page_token
from sagacity.common.v1 import money_pb2, saga_step_pb2
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from services.inventory import domain
from services.inventory.app.catalogue import Catalogue
from services.inventory.app.reservations import Reservations

DOMAIN = "sagacity.inventory"
SERVICE = "sagacity.inventory.v1.Inventory"
KNOWN_CURRENCIES = frozenset(currency.code for currency in iso4217.Currency)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_GATEWAY = frozenset({"gateway"})
_ORCHESTRATOR = frozenset({"orchestrator"})
_EVERY_SERVICE = frozenset(
    {"users", "inventory", "payments", "orders", "orchestrator", "gateway", "operator"}
)
_ADMIN = frozenset({"admin"})
_STAFF = frozenset({"support", "admin"})

POLICIES: Mapping[str, Allow] = {
    "CreateProduct": Allow(_GATEWAY, _ADMIN),
    "UpdateProduct": Allow(_GATEWAY, _ADMIN),
    "ArchiveProduct": Allow(_GATEWAY, _ADMIN),
    "GetProduct": Allow(_EVERY_SERVICE),
    "ListProducts": Allow(_EVERY_SERVICE),
    "AdjustStock": Allow(_GATEWAY, _ADMIN),
    "GetStock": Allow(_GATEWAY, _STAFF),
    "Reserve": Allow(_ORCHESTRATOR),
    "CommitReservation": Allow(_ORCHESTRATOR),
    "ReleaseReservation": Allow(_ORCHESTRATOR),
    "Restock": Allow(_ORCHESTRATOR),
    # The orchestrator calls without a user; who calls through the gateway is checked in the handler.
    "GetReservation": Allow(_ORCHESTRATOR | _GATEWAY),
}

FAULTS: Mapping[type[domain.InventoryError], tuple[FaultKind, str, str]] = {
    domain.ProductNotFoundError: (FaultKind.NOT_FOUND, "PRODUCT_NOT_FOUND", "there is no such product"),
    domain.SkuTakenError: (FaultKind.ALREADY_EXISTS, "SKU_TAKEN", "another product has this SKU"),
    domain.EtagMismatchError: (
        FaultKind.ABORTED,
        "ETAG_MISMATCH",
        "the product changed since you read it; read it again",
    ),
    domain.StockWouldBeNegativeError: (
        FaultKind.FAILED_PRECONDITION,
        "STOCK_WOULD_BE_NEGATIVE",
        "more would be taken away than is available",
    ),
    domain.RequestIdReusedError: (
        FaultKind.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
        "this request_id came before with another request",
    ),
    domain.ReservationNotFoundError: (
        FaultKind.NOT_FOUND,
        "RESERVATION_NOT_FOUND",
        "there is no such reservation",
    ),
    domain.ReservationExistsError: (
        FaultKind.ALREADY_EXISTS,
        "RESERVATION_EXISTS",
        "the reservation or its order has stock held by another call",
    ),
    domain.ReservationNotCommittedError: (
        FaultKind.FAILED_PRECONDITION,
        "RESERVATION_NOT_COMMITTED",
        "nothing of the reservation is sold",
    ),
    domain.ReturnTooLargeError: (
        FaultKind.FAILED_PRECONDITION,
        "RETURN_TOO_LARGE",
        "more would come back than is sold",
    ),
}

_STATES: Mapping[domain.ReservationState, inventory_pb2.ReservationState.ValueType] = {
    domain.ReservationState.HELD: inventory_pb2.RESERVATION_STATE_HELD,
    domain.ReservationState.COMMITTED: inventory_pb2.RESERVATION_STATE_COMMITTED,
    domain.ReservationState.RELEASED: inventory_pb2.RESERVATION_STATE_RELEASED,
    domain.ReservationState.EXPIRED: inventory_pb2.RESERVATION_STATE_EXPIRED,
    domain.ReservationState.RETURNED: inventory_pb2.RESERVATION_STATE_RETURNED,
}


def translate(error: Exception) -> Fault | None:
    """Returns the Fault of a domain error; None for anything that is not one."""
    if isinstance(error, domain.InvalidFieldsError):
        return _invalid(*error.problems)
    for kind_of_error, (kind, reason, message) in FAULTS.items():
        if isinstance(error, kind_of_error):
            return Fault(kind, reason, message, subjects=_subjects(error))
    return None


def _subjects(error: Exception) -> tuple[Detail, ...]:
    excess = error.excess if isinstance(error, domain.ReturnTooLargeError) else ()
    return tuple(Detail(sku, f"requested {quantity}, sold {sold}") for sku, quantity, sold in excess)


class InventoryService(inventory_pb2_grpc.InventoryServicer):
    """The handlers of sagacity.inventory.v1.Inventory."""

    def __init__(self, catalogue: Catalogue, reservations: Reservations) -> None:
        self._catalogue = catalogue
        self._reservations = reservations

    @override
    async def CreateProduct(
        self, request: inventory_pb2.CreateProductRequest, context: Context
    ) -> inventory_pb2.CreateProductResponse:
        """Adds a product."""
        change = domain.ProductChange(
            name=request.name,
            description=request.description,
            category=request.category,
            unit_price=_money(request.unit_price),
            low_stock_threshold=request.low_stock_threshold,
        )
        product = await self._catalogue.create_product(request.sku, change)
        return inventory_pb2.CreateProductResponse(product=_product_message(product))

    @override
    async def UpdateProduct(
        self, request: inventory_pb2.UpdateProductRequest, context: Context
    ) -> inventory_pb2.UpdateProductResponse:
        """Changes the masked fields of a product."""
        change = _masked(request.product, list(request.update_mask.paths))
        product = await self._catalogue.update_product(request.product.sku, change, etag=request.product.etag)
        return inventory_pb2.UpdateProductResponse(product=_product_message(product))

    @override
    async def ArchiveProduct(
        self, request: inventory_pb2.ArchiveProductRequest, context: Context
    ) -> inventory_pb2.ArchiveProductResponse:
        """Takes a product out of sale."""
        product = await self._catalogue.archive_product(request.sku)
        return inventory_pb2.ArchiveProductResponse(product=_product_message(product))

    @override
    async def GetProduct(
        self, request: inventory_pb2.GetProductRequest, context: Context
    ) -> inventory_pb2.GetProductResponse:
        """Reads one product."""
        product = await self._catalogue.product(request.sku)
        return inventory_pb2.GetProductResponse(product=_product_message(product))

    @override
    async def ListProducts(
        self, request: inventory_pb2.ListProductsRequest, context: Context
    ) -> inventory_pb2.ListProductsResponse:
        """Lists products in SKU order."""
        chosen = ("products", request.category, request.include_inactive)
        position = decode_page_token(request.page_token, chosen, types=(_sku_of_token,))
        products, more = await self._catalogue.products(
            after=position[0] if position else "",
            category=request.category,
            include_inactive=request.include_inactive,
            page_size=min(request.page_size, domain.MAX_PAGE_SIZE) or domain.DEFAULT_PAGE_SIZE,
        )
        return inventory_pb2.ListProductsResponse(
            products=map(_product_message, products),
            next_page_token=encode_page_token((products[-1].sku,), chosen) if more else "",
        )

    @override
    async def AdjustStock(
        self, request: inventory_pb2.AdjustStockRequest, context: Context
    ) -> inventory_pb2.AdjustStockResponse:
        """Adds to the stock on hand, or takes from it, once per request id."""
        adjustment = domain.StockAdjustment(
            caller=_name_of(current_caller()),
            request_id=UUID(request.request_id),
            sku=request.sku,
            delta=request.delta,
            reason=request.reason,
        )
        stock = await self._catalogue.adjust_stock(adjustment)
        return inventory_pb2.AdjustStockResponse(stock=_stock_message(stock))

    @override
    async def GetStock(
        self, request: inventory_pb2.GetStockRequest, context: Context
    ) -> inventory_pb2.GetStockResponse:
        """Reads the stock of one product."""
        stock = await self._catalogue.stock(request.sku)
        return inventory_pb2.GetStockResponse(stock=_stock_message(stock))

    @override
    async def Reserve(
        self, request: inventory_pb2.ReserveRequest, context: Context
    ) -> inventory_pb2.ReserveResponse:
        """Holds all lines for an order or none."""
        _expect(request.saga_step, saga_step_pb2.OPERATION_DO)
        hold = domain.Hold(
            reservation_id=UUID(request.reservation_id),
            order_id=UUID(request.order_id),
            lines=domain.summed_lines(domain.WantedLine(line.sku, line.quantity) for line in request.lines),
            currency_code=request.currency_code,
            ttl=request.ttl.ToTimedelta(),
        )
        reservation = await self._reservations.reserve(barrier.saga_call(request), hold)
        return inventory_pb2.ReserveResponse(reservation=_reservation_message(reservation))

    @override
    async def CommitReservation(
        self, request: inventory_pb2.CommitReservationRequest, context: Context
    ) -> inventory_pb2.CommitReservationResponse:
        """Makes held stock sold stock."""
        _expect(request.saga_step, saga_step_pb2.OPERATION_DO)
        state = await self._reservations.commit_reservation(
            barrier.saga_call(request), UUID(request.reservation_id)
        )
        return inventory_pb2.CommitReservationResponse(state=_STATES[state])

    @override
    async def ReleaseReservation(
        self, request: inventory_pb2.ReleaseReservationRequest, context: Context
    ) -> inventory_pb2.ReleaseReservationResponse:
        """Gives the stock of a reservation back."""
        undoes = request.saga_step.operation == saga_step_pb2.OPERATION_UNDO
        use_case = self._reservations.release_reservation if undoes else self._reservations.cancel_reservation
        state = await use_case(barrier.saga_call(request), UUID(request.reservation_id))
        return inventory_pb2.ReleaseReservationResponse(state=_state_message(state))

    @override
    async def Restock(
        self, request: inventory_pb2.RestockRequest, context: Context
    ) -> inventory_pb2.RestockResponse:
        """Takes sold units of a reservation back."""
        _expect(request.saga_step, saga_step_pb2.OPERATION_DO)
        lines = domain.summed_lines(domain.WantedLine(line.sku, line.quantity) for line in request.lines)
        state = await self._reservations.restock(
            barrier.saga_call(request), UUID(request.reservation_id), lines
        )
        return inventory_pb2.RestockResponse(state=_state_message(state))

    @override
    async def GetReservation(
        self, request: inventory_pb2.GetReservationRequest, context: Context
    ) -> inventory_pb2.GetReservationResponse:
        """Reads one reservation."""
        caller = current_caller()
        if caller.service in _GATEWAY and caller.role not in _STAFF:
            raise Fault(FaultKind.PERMISSION_DENIED, "PERMISSION_DENIED", "this is for staff")
        reservation = await self._reservations.reservation(UUID(request.reservation_id))
        return inventory_pb2.GetReservationResponse(reservation=_reservation_message(reservation))


def _expect(step: saga_step_pb2.SagaStep, operation: saga_step_pb2.Operation.ValueType) -> None:
    if step.operation != operation:
        raise _invalid(("saga_step.operation", "is not the one that this call is for"))


def _name_of(caller: Caller) -> str:
    return f"{caller.service}:{caller.user_id}" if caller.user_id else caller.service


def _sku_of_token(text: str) -> str:
    if not domain.is_sku(text):
        raise ValueError("not a SKU")
    return text


def _invalid(*problems: tuple[str, str]) -> Fault:
    fields = tuple(Detail(field, problem) for field, problem in problems)
    return Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "the request is not valid", fields=fields)


def _masked(product: inventory_pb2.Product, paths: list[str]) -> domain.ProductChange:
    """Takes the values that the mask names.

    Raises:
        InvalidFieldsError: The mask is empty or names what cannot be changed, or a price is not given.
    """
    if not paths or not domain.CHANGEABLE_FIELDS.issuperset(paths):
        allowed = ", ".join(sorted(domain.CHANGEABLE_FIELDS))
        raise domain.InvalidFieldsError([("update_mask", f"must name some of: {allowed}")])
    if "unit_price" in paths and not product.HasField("unit_price"):
        raise domain.InvalidFieldsError([("product.unit_price", "is in the mask, but not given")])
    take: Mapping[str, Callable[[], Any]] = {
        "name": lambda: product.name,
        "description": lambda: product.description,
        "category": lambda: product.category,
        "unit_price": lambda: _money(product.unit_price),
        "active": lambda: product.active,
        "low_stock_threshold": lambda: product.low_stock_threshold,
    }
    return domain.ProductChange(**{path: take[path]() for path in paths})


def _money(message: money_pb2.Money) -> domain.Money:
    return domain.Money(message.currency_code, message.minor_units)


def _money_message(money: domain.Money) -> money_pb2.Money:
    return money_pb2.Money(currency_code=money.currency_code, minor_units=money.minor_units)


def _product_message(product: domain.Product) -> inventory_pb2.Product:
    message = inventory_pb2.Product(
        sku=product.sku,
        name=product.name,
        description=product.description,
        category=product.category,
        unit_price=_money_message(product.unit_price),
        active=product.active,
        etag=product.etag,
        available=product.available,
        low_stock_threshold=product.low_stock_threshold,
    )
    message.create_time.FromDatetime(product.create_time)
    message.update_time.FromDatetime(product.update_time)
    return message


def _stock_message(stock: domain.Stock) -> inventory_pb2.Stock:
    return inventory_pb2.Stock(
        sku=stock.sku, on_hand=stock.on_hand, reserved=stock.reserved, available=stock.available
    )


def _state_message(state: domain.ReservationState | None) -> inventory_pb2.ReservationState.ValueType:
    return _STATES[state] if state else inventory_pb2.RESERVATION_STATE_UNSPECIFIED


def _reservation_message(reservation: domain.Reservation) -> inventory_pb2.Reservation:
    expire_time = Timestamp()
    expire_time.FromDatetime(reservation.expire_time)
    lines = (
        inventory_pb2.ReservedLine(
            sku=line.sku,
            name=line.name,
            quantity=line.quantity,
            unit_price=_money_message(line.unit_price),
            returned=line.returned,
        )
        for line in reservation.lines
    )
    return inventory_pb2.Reservation(
        id=str(reservation.id),
        order_id=str(reservation.order_id),
        state=_STATES[reservation.state],
        lines=lines,
        expire_time=expire_time,
    )
