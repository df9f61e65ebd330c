"""kill -9 of the real process between the provider's effect and our commit; the next one goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.identity import ServiceIdentity, new_key_pair
from chassis.ids import new_id
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.saga_step_pb2 import OPERATION_DO, SagaStep
from sagacity.payments.v1 import payments_pb2, payments_pb2_grpc

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Step, World

pytestmark = pytest.mark.integration

START_SECONDS = 30
STOP_SECONDS = 30
CALL_SECONDS = 10.0
TAKEN = [("AUTHORIZATION", 1234), ("CAPTURE", 1234)]


class PaymentsProcess:
    """Starts `python -m services.payments`, and calls it as the orchestrator does."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._pem, public = new_key_pair("orchestrator")
        keys = folder / "keys.json"
        keys.write_text(json.dumps({"keys": [public]}), "utf-8")
        self._variables = {
            "PAYMENTS_DATABASE_DSN": dsn,
            "PAYMENTS_LISTEN": "127.0.0.1:0",
            "IDENTITY_KEYS_FILE": str(keys),
            "LOG_FORMAT": "json",
        }

    @asynccontextmanager
    async def run(self, *, crash_at: str, ends_with: int) -> AsyncIterator[Connection]:
        variables = self._variables | {"CRASH_AT": crash_at}
        environment = os.environ | {f"SAGACITY_{name}": value for name, value in variables.items()}  # noqa: TID251
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.payments", env=environment, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                port = await _port_of(process)
            connection = Connection(f"127.0.0.1:{port}", ServiceIdentity("orchestrator", self._pem))
            yield connection
            await connection.close()
        finally:
            if not crash_at:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_SECONDS):
                await process.communicate()
        assert process.returncode == ends_with


async def _port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    async for line in process.stdout:
        record = json.loads(line)
        if record["event"] == "serving":
            return int(record["port"])
    raise AssertionError("the process ended before it served")


async def call(connection: Connection, method: str, request: Any) -> Any:
    stub = payments_pb2_grpc.PaymentsStub(connection.channel)
    return await connection.call(getattr(stub, method), request, timeout_seconds=CALL_SECONDS)


def request_of(method: str, step: Step) -> Any:
    saga_step = SagaStep(saga_id=str(new_id()), step="payment", operation=OPERATION_DO)
    payment_id = str(step.order.payment_id)
    if method == "Capture":
        return payments_pb2.CaptureRequest(saga_step=saga_step, payment_id=payment_id)
    if method == "Reverse":
        return payments_pb2.ReverseRequest(saga_step=saga_step, payment_id=payment_id)
    return payments_pb2.RefundRequest(
        saga_step=saga_step,
        payment_id=payment_id,
        refund_id=str(new_id()),
        amount=Money(currency_code="EUR", minor_units=200),
        reason="arrived broken",
    )


@pytest.mark.parametrize(
    ("method", "crash_at", "ours", "theirs"),
    [
        ("Capture", "payments.capture.after_provider:1", TAKEN[:1], TAKEN),
        ("Refund", "payments.refund.after_provider:1", TAKEN, [*TAKEN, ("REFUND", 200)]),
        ("Reverse", "payments.reverse.after_provider:1", TAKEN, [*TAKEN, ("REFUND", 1234)]),
    ],
)
async def test_what_was_killed_after_the_provider_is_resumed_and_has_one_effect(
    world: World,
    tmp_path: Path,
    *,
    method: str,
    crash_at: str,
    ours: list[tuple[str, int]],
    theirs: list[tuple[str, int]],
) -> None:
    step = await (world.authorised() if method == "Capture" else world.captured())
    process, request = PaymentsProcess(world.dsn, tmp_path), request_of(method, step)
    async with process.run(crash_at=crash_at, ends_with=-signal.SIGKILL) as connection:
        with pytest.raises(Fault) as unknown:
            await call(connection, method, request)
    assert unknown.value.kind is FaultKind.UNAVAILABLE
    assert await world.ledger(step) == ours
    assert await world.provider_ledger(step) == theirs
    async with process.run(crash_at="", ends_with=0) as connection:
        first = await call(connection, method, request)
        assert await call(connection, method, request) == first
    assert await world.ledger(step) == theirs == await world.provider_ledger(step)
    assert await world.rows("SELECT 1 FROM barrier WHERE outcome = 'IN_PROGRESS'") == []
    assert await world.broken() == []
