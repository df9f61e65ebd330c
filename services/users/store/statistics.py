"""What customers ordered and spent."""

from typing import Any
from uuid import UUID

from chassis.postgres import Transaction, statement
from services.users.domain import CustomerStatistics, Money, NeverSpentError, StatisticsChange
from services.users.store.source import CanFetch

_COUNT = """
    INSERT INTO customer_statistics AS s
        (user_id, orders_placed, orders_confirmed, orders_rejected, orders_cancelled)
    VALUES (%(user_id)s::uuid, %(placed)s::bigint, %(confirmed)s::bigint, %(rejected)s::bigint,
        %(cancelled)s::bigint)
    ON CONFLICT (user_id) DO UPDATE SET
        orders_placed = s.orders_placed + excluded.orders_placed,
        orders_confirmed = s.orders_confirmed + excluded.orders_confirmed,
        orders_rejected = s.orders_rejected + excluded.orders_rejected,
        orders_cancelled = s.orders_cancelled + excluded.orders_cancelled
    """
COUNT_ORDERS = statement("count_orders", _COUNT)
# Counts first, then the amount: facts about one customer wait at the first row, and never in a circle.
COUNT_ORDERS_AND_SPENT = statement(
    "count_orders_and_spent",
    f"""
    WITH counted AS ({_COUNT} RETURNING s.user_id)
    INSERT INTO customer_amount_spent AS m (user_id, currency_code, amount_minor)
    SELECT user_id, %(currency_code)s::text, %(amount_minor)s::bigint FROM counted
    ON CONFLICT (user_id, currency_code) DO UPDATE SET amount_minor = m.amount_minor + excluded.amount_minor
    """,  # noqa: S608 - a constant of this code
)
# No insert: what goes back was spent before, and a row that begins below 0 would hide that a fact is missing.
COUNT_ORDERS_AND_RETURNED = statement(
    "count_orders_and_returned",
    f"""
    WITH counted AS ({_COUNT} RETURNING s.user_id)
    UPDATE customer_amount_spent m SET amount_minor = m.amount_minor - %(amount_minor)s::bigint
    FROM counted
    WHERE m.user_id = counted.user_id AND m.currency_code = %(currency_code)s::text
    RETURNING m.amount_minor
    """,  # noqa: S608 - a constant of this code
)
STATISTICS_OF_USER = statement(
    "statistics_of_user",
    """
    SELECT s.orders_placed, s.orders_confirmed, s.orders_rejected, s.orders_cancelled, m.currency_code,
        m.amount_minor
    FROM customer_statistics s LEFT JOIN customer_amount_spent m ON m.user_id = s.user_id
    WHERE s.user_id = %(user_id)s::uuid
    ORDER BY m.currency_code COLLATE "C"
    """,
)


async def add_to_statistics(tx: Transaction, change: StatisticsChange) -> None:
    """Adds one fact to the statistics of its customer; the customer need not be known here.

    Raises:
        NeverSpentError: money goes back that was never counted as spent: a fact is missing.
    """
    counts: dict[str, Any] = {
        "user_id": change.user_id,
        "placed": change.placed,
        "confirmed": change.confirmed,
        "rejected": change.rejected,
        "cancelled": change.cancelled,
    }
    if change.spent is not None:
        await tx.fetch(COUNT_ORDERS_AND_SPENT, counts | _amount(change.spent))
    elif change.returned is not None:
        if not await tx.fetch(COUNT_ORDERS_AND_RETURNED, counts | _amount(change.returned)):
            raise NeverSpentError("what goes back was never counted as spent")
    else:
        await tx.fetch(COUNT_ORDERS, counts)


async def statistics_of_user(source: CanFetch, user_id: UUID) -> CustomerStatistics:
    """What a customer ordered and spent; all zero where nothing is known."""
    rows = await source.fetch(STATISTICS_OF_USER, {"user_id": user_id})
    if not rows:
        return CustomerStatistics(user_id)
    return CustomerStatistics(
        user_id=user_id,
        orders_placed=rows[0]["orders_placed"],
        orders_confirmed=rows[0]["orders_confirmed"],
        orders_rejected=rows[0]["orders_rejected"],
        orders_cancelled=rows[0]["orders_cancelled"],
        amount_spent=tuple(
            Money(row["currency_code"], row["amount_minor"])
            for row in rows
            if row["currency_code"] is not None
        ),
    )


def _amount(money: Money) -> dict[str, Any]:
    return {"currency_code": money.currency_code, "amount_minor": money.minor_units}
