"""What this context tells the others: domain -> published facts."""

from datetime import datetime
from uuid import UUID

from google.protobuf.message import Message

from chassis.outbox import Event
from sagacity.users.v1 import events_pb2
from services.users.domain import User

TOPIC = "sagacity.users.v1"
AGGREGATE_TYPE = "user"


def user_registered(event_id: UUID, user: User) -> Event:
    """Somebody made an account. Nothing personal goes out: facts cannot be taken back."""
    fact = events_pb2.UserRegistered(user_id=str(user.id))
    fact.register_time.FromDatetime(user.create_time)
    return _event(event_id, user.id, user.create_time, fact)


def user_deactivated(event_id: UUID, user_id: UUID, at: datetime) -> Event:
    """An account was closed for good."""
    fact = events_pb2.UserDeactivated(user_id=str(user_id))
    fact.deactivate_time.FromDatetime(at)
    return _event(event_id, user_id, at, fact)


def _event(event_id: UUID, user_id: UUID, at: datetime, fact: Message) -> Event:
    return Event(
        id=event_id,
        aggregate_type=AGGREGATE_TYPE,
        aggregate_id=str(user_id),
        type=fact.DESCRIPTOR.full_name,
        payload=fact.SerializeToString(),
        occurred_at=at,
    )
