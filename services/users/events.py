"""What this context tells the others: domain -> published facts."""

from uuid import UUID

from chassis.outbox import Event
from sagacity.users.v1 import events_pb2
from services.users.domain import User

TOPIC = "sagacity.users.v1"
AGGREGATE_TYPE = "user"


def user_registered(event_id: UUID, user: User) -> Event:
    """Somebody made an account. Nothing personal goes out: facts cannot be taken back."""
    fact = events_pb2.UserRegistered(user_id=str(user.id))
    fact.register_time.FromDatetime(user.create_time)
    return Event(
        id=event_id,
        aggregate_type=AGGREGATE_TYPE,
        aggregate_id=str(user.id),
        type=fact.DESCRIPTOR.full_name,
        payload=fact.SerializeToString(),
        occurred_at=user.create_time,
    )
