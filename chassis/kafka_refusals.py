"""Why Kafka does not take a client: aiokafka itself says only that no server did."""

import asyncio

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError

from chassis.cancellation import is_cancelled
from chassis.kafka import KafkaCluster

ASK_SECONDS = 3.0


async def reason(kafka: KafkaCluster, error: BaseException) -> str:
    """Returns what is to be logged of an error with which a client did not start, or ended.

    Where no server took it, the first one is asked once more for what it says itself: an unknown certificate,
    a wrong password, a port where nobody listens. That takes ASK_SECONDS at most.

    Args:
        kafka: What the client was made for.
        error: How it failed.
    """
    if not isinstance(error, KafkaConnectionError):
        return repr(error)
    try:
        async with asyncio.timeout(ASK_SECONDS):
            await _connect(kafka)
    except (Exception, asyncio.CancelledError) as refusal:
        # It may be a CancelledError of aiokafka's own.
        if is_cancelled():
            raise asyncio.CancelledError from refusal
        # What ended a connection while an answer was awaited is behind it, such as an alert of TLS.
        cause = refusal.__cause__ if isinstance(refusal, KafkaConnectionError) else None
        return repr(cause if isinstance(cause, OSError) else refusal)
    return repr(error)


async def _connect(kafka: KafkaCluster) -> None:
    options = kafka.client_options()
    (host, port, _), *_ = collect_hosts(options.pop("bootstrap_servers"), randomize=False)
    connection = await create_conn(host, port, **options)
    connection.close()
