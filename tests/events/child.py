"""One relay or one consumer in a process of its own: `python -m tests.events.child '{"role": "relay", ...}'`.

It says "ready" on standard output once it runs; SIGTERM stops it in an orderly way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chassis import relay as relay_module
from chassis.consumer import Consumer, ReceivedEvent
from chassis.kafka import KafkaCluster
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database, Transaction, statement
from chassis.relay import Relay
from chassis.telemetry import configure_logging
from sagacity.orders.v1 import events_pb2
from tests.events.planted import AutoCommittingConsumer, CursorRelay, ForgetfulConsumer

Role = Literal["relay", "consumer", "cursor relay", "forgetful consumer", "auto-committing consumer"]
# Short, so that who is killed is replaced soon.
LEASE_SECONDS, LEASE_RENEWAL_SECONDS = 1.5, 0.5

_EFFECT = statement(
    "proof_effect",
    "INSERT INTO proof_effect (event_id, aggregate, sequence)"
    " VALUES (%(event_id)s::text, %(aggregate)s::text, %(sequence)s::bigint)",
)


@dataclass(frozen=True)
class Part:
    """What a process is told."""

    role: Role
    dsn: str
    servers: str
    topic: str
    group: str

    def as_argument(self) -> str:
        """As the command line has it."""
        return json.dumps(asdict(self))


async def apply(tx: Transaction, event: ReceivedEvent) -> None:
    """The effect: a row that nothing keeps from being there twice."""
    await tx.fetch(
        _EFFECT, {"event_id": event.id, "aggregate": event.aggregate_id, "sequence": event.sequence}
    )


HANDLERS = {events_pb2.OrderPlaced.DESCRIPTOR.full_name: apply}


def _work(part: Part, database: Database) -> Coroutine[Any, Any, None]:
    consuming: dict[str, Any] = {
        "kafka": KafkaCluster(part.servers),
        "topics": [part.topic],
        "group": part.group,
        "handlers": HANDLERS,
    }
    match part.role:
        case "relay":
            relay_module.LEASE_SECONDS = LEASE_SECONDS
            relay_module.LEASE_RENEWAL_SECONDS = LEASE_RENEWAL_SECONDS
            relay = Relay(database, kafka=KafkaCluster(part.servers), topic=part.topic, owner="proof")
            return relay.run()
        case "consumer":
            return Consumer(database, **consuming).run()
        case "cursor relay":
            return CursorRelay(database, part.servers, part.topic).run()
        case "forgetful consumer":
            return ForgetfulConsumer(database, **consuming).run()
        case "auto-committing consumer":
            return AutoCommittingConsumer(database, **consuming).run()


async def program(life: Lifecycle) -> None:
    """Start what was asked for."""
    part = Part(**json.loads(sys.argv[1]))
    configure_logging("proof", "console")
    database = await Database.open(part.dsn, application_name=part.role)
    life.on_stop(database.close)
    life.start(_work(part, database), name=part.role)
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(program)
