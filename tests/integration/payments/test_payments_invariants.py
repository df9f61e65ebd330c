from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chassis.ids import new_id
from chassis.postgres import statement

if TYPE_CHECKING:
    from tests.integration.payments.conftest import World

pytestmark = pytest.mark.integration


async def test_the_checker_finds_each_planted_difference(world: World) -> None:
    step = await world.step()
    await step.charge()
    assert await world.broken() == []
    payment_id = step.order.payment_id
    capture = f"{payment_id}:capture"

    async def at_provider(sql: str) -> None:
        await world.provider_database.fetch(statement("plant", sql), {"key": capture})

    await at_provider(
        "UPDATE provider_simulation.operation SET amount_minor = 1235 WHERE operation_key = %(key)s"
    )
    assert await world.broken() == [("I9", capture)]
    await at_provider(
        "UPDATE provider_simulation.operation SET amount_minor = 1234 WHERE operation_key = %(key)s"
    )

    await at_provider("UPDATE provider_simulation.operation SET operation_key = operation_key || 'x'")
    assert {key for _, key in await world.broken()} == {
        f"{payment_id}:{kind}{suffix}" for kind in ("authorization", "capture") for suffix in ("", "x")
    }
    await at_provider("UPDATE provider_simulation.operation SET operation_key = left(operation_key, -1)")

    await world.rows("UPDATE payment SET captured_minor = 0 WHERE id = %(id)s", id=payment_id)
    assert await world.broken() == [("LEDGER_TOTALS", str(payment_id))]
    await world.rows("UPDATE payment SET captured_minor = 1234 WHERE id = %(id)s", id=payment_id)

    await world.rows("UPDATE payment SET state = 'VOIDED' WHERE id = %(id)s", id=payment_id)
    assert await world.broken() == [("P1", str(payment_id))]
    await world.rows("UPDATE payment SET state = 'CAPTURED' WHERE id = %(id)s", id=payment_id)

    stray = await world.step()
    entry = (
        "INSERT INTO ledger_entry (operation_key, payment_id, kind, amount_minor, currency_code, create_time)"
        " VALUES (%(key)s, %(id)s, 'REFUND', 1, 'EUR', now())"
    )
    await world.rows("ALTER TABLE ledger_entry DISABLE TRIGGER ledger_entry_append_only")
    await world.rows(entry, key=str(new_id()), id=payment_id)
    assert {name for name, _ in await world.broken()} == {"LEDGER_TOTALS", "I9", "UNASKED"}
    await world.rows("DELETE FROM ledger_entry WHERE kind = 'REFUND'")
    await world.rows(entry.replace("'REFUND'", "'CAPTURE'"), key=str(new_id()), id=stray.order.payment_id)
    assert {name for name, _ in await world.broken()} == {"I9", "I16", "UNASKED"}
    await world.rows("DELETE FROM ledger_entry WHERE payment_id = %(id)s", id=stray.order.payment_id)


async def test_the_checker_finds_each_planted_difference_between_refunds_and_their_entries(
    world: World,
) -> None:
    step = await world.captured()
    later = step.later()
    await later.refund(200)
    assert await world.broken() == []
    subject = str(later.refund_id)

    for state in ("PENDING", "REFUSED"):
        await world.rows("UPDATE refund SET state = %(state)s", state=state)
        assert await world.broken() == [("REFUNDS", subject)]
    await world.rows("UPDATE refund SET state = 'DONE', amount_minor = 199")
    assert await world.broken() == [("REFUNDS", subject)]
    await world.rows("UPDATE refund SET amount_minor = 200")

    # In flight, it takes more than what is left.
    await world.rows(
        "INSERT INTO refund SELECT gen_random_uuid(), payment_id, saga_id, 'more', 1035, reason, 'PENDING',"
        " create_time, update_time FROM refund"
    )
    assert await world.broken() == [("I8", str(step.order.payment_id))]
    await world.rows("UPDATE refund SET amount_minor = 1034 WHERE step = 'more'")
    assert await world.broken() == []
    await world.rows("DELETE FROM refund WHERE step = 'later'")
    assert {name for name, _ in await world.broken()} == {"REFUNDS"}
    await world.rows("UPDATE refund SET id = %(id)s, amount_minor = 200, state = 'DONE'", id=later.refund_id)


async def test_a_role_without_rights_of_its_own_can_use_the_providers_books_and_not_shape_them(
    world: World,
) -> None:
    role = f"provider_test_{new_id().hex}"
    try:
        await world.rows(f"CREATE ROLE {role}")
        async with world.provider_database.transaction() as tx:
            await tx.fetch(statement("become", f"SET LOCAL ROLE {role}"), {})
            for sql in (
                "SELECT * FROM provider_simulation.payment FOR UPDATE",
                "SELECT * FROM provider_simulation.ledger",
                "DELETE FROM provider_simulation.operation WHERE operation_key = ''",
            ):
                await tx.fetch(statement("use", sql), {})
            for table, rights in (("payment", "DELETE"), ("operation", "UPDATE"), ("ledger", "INSERT")):
                sql = f"SELECT has_table_privilege('provider_simulation.{table}', '{rights}') AS may"
                assert not (await tx.fetch(statement("may", sql), {}))[0]["may"]
    finally:
        await world.rows(f"DROP ROLE {role}")
