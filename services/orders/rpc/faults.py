"""One table from domain error to Fault."""

from collections.abc import Mapping
from datetime import timedelta

from chassis.errors import Detail, Fault, FaultKind
from services.orders.app import EXPONENTS
from services.orders.cancellations import CustomerDeactivatedError
from services.orders.domain import (
    AmountTooLargeError,
    CurrencyMismatchError,
    CurrencyUnknownError,
    InvalidLinesError,
    InvalidQuoteError,
    Money,
    NotAllowedError,
    OrderExistsError,
    OrderNotFoundError,
    OrderState,
    TransitionRefusedError,
    states_before,
)
from services.orders.history.listing import HistoryNotReadyError
from services.orders.history.search import InvalidSearchError
from services.orders.pricing import CountryNotServedError, PriceChangedError
from services.orders.refunds import (
    InvalidRefundError,
    OrderNotRefundableError,
    RefundExistsError,
    RefundTooLargeError,
)

# How soon the projection of lists may be there, when it is built for the first time.
NOT_READY_RETRY = timedelta(seconds=5)
# Kind, reason, message (empty: what the error says), and the field of the request that is wrong, if any.
FAULTS: Mapping[type[Exception], tuple[FaultKind, str, str, str]] = {
    OrderNotFoundError: (FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "there is no such order", ""),
    OrderExistsError: (FaultKind.ALREADY_EXISTS, "ORDER_EXISTS", "there is another order of this id", ""),
    NotAllowedError: (FaultKind.PERMISSION_DENIED, "NOT_ALLOWED", "", ""),
    CustomerDeactivatedError: (
        FaultKind.FAILED_PRECONDITION,
        "CUSTOMER_DEACTIVATED",
        "the customer's account was deactivated",
        "",
    ),
    OrderNotRefundableError: (FaultKind.FAILED_PRECONDITION, "ORDER_NOT_REFUNDABLE", "", ""),
    RefundExistsError: (FaultKind.ALREADY_EXISTS, "REFUND_EXISTS", "there is another refund of this id", ""),
    InvalidRefundError: (FaultKind.INVALID_ARGUMENT, "REFUND_INVALID", "", ""),
    CountryNotServedError: (FaultKind.FAILED_PRECONDITION, "COUNTRY_NOT_SERVED", "", ""),
    InvalidLinesError: (FaultKind.INVALID_ARGUMENT, "LINES_INVALID", "", "lines"),
    InvalidQuoteError: (FaultKind.INVALID_ARGUMENT, "QUOTE_INVALID", "", "quote"),
    CurrencyMismatchError: (FaultKind.INVALID_ARGUMENT, "CURRENCY_MISMATCH", "", ""),
    CurrencyUnknownError: (FaultKind.INVALID_ARGUMENT, "CURRENCY_UNKNOWN", "", ""),
    AmountTooLargeError: (FaultKind.INVALID_ARGUMENT, "AMOUNT_TOO_LARGE", "", ""),
}
# The reason of a refused transition, by where the order was to go: each state has one before it.
NOT_IN_STATE_BEFORE: Mapping[OrderState, str] = {
    wanted: f"ORDER_NOT_{before}" for wanted in OrderState for before in states_before(wanted)
}


def translate(error: Exception) -> Fault | None:
    """The Fault for an error of this context's domain; None for any other."""
    if isinstance(error, PriceChangedError):
        return _price_changed(error)
    if isinstance(error, TransitionRefusedError):
        return Fault(FaultKind.FAILED_PRECONDITION, NOT_IN_STATE_BEFORE[error.wanted], str(error))
    if isinstance(error, RefundTooLargeError):
        return _refund_too_large(error)
    if isinstance(error, InvalidSearchError | HistoryNotReadyError):
        return _of_list(error)
    if type(error) not in FAULTS:
        return None
    kind, reason, message, field = FAULTS[type(error)]
    fields = (Detail(field, str(error)),) if field else ()
    return Fault(kind, reason, message or str(error), fields=fields)


def _of_list(error: InvalidSearchError | HistoryNotReadyError) -> Fault:
    if isinstance(error, HistoryNotReadyError):
        message = "lists of orders are being built; try again shortly"
        return Fault(FaultKind.UNAVAILABLE, "ORDER_HISTORY_NOT_READY", message, retry_after=NOT_READY_RETRY)
    problem = Detail(error.field, str(error))
    return Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", str(error), fields=(problem,))


def _price_changed(error: PriceChangedError) -> Fault:
    total, expected = _for_people(error.total), _for_people(error.expected)
    return Fault(
        FaultKind.FAILED_PRECONDITION,
        "PRICE_CHANGED",
        f"the order costs {total}, not {expected} as expected",
        subjects=(Detail("total", total), Detail("expected_total", expected)),
    )


def _for_people(money: Money) -> str:
    exponent = EXPONENTS[money.currency_code]
    whole, minor = divmod(abs(money.minor_units), 10**exponent)
    sign = "-" if money.minor_units < 0 else ""
    return f"{sign}{whole}{f'.{minor:0{exponent}}' if exponent else ''} {money.currency_code}"


def _refund_too_large(error: RefundTooLargeError) -> Fault:
    subjects = tuple(
        Detail(shortage.sku, f"{shortage.wanted} are to go back, {shortage.left} are left")
        for shortage in error.shortages
    )
    return Fault(FaultKind.FAILED_PRECONDITION, "REFUND_TOO_LARGE", str(error), subjects=subjects)
