"""The use cases of this context; each opens its own transactions, and a charge or its undo has two of them.

Payments that stay IN_PROGRESS, UNKNOWN or REVERSING are not looked after by a task of this process: the saga
that asked for them calls again with the same bytes until it has an answer, and each call asks the provider. A
second party that resolves them would add races and find nothing that the saga does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chassis.clock import Clock
from chassis.ids import NewId
from chassis.postgres import Database
from services.payments.provider import PaymentProvider


@dataclass(frozen=True, kw_only=True)
class Payments:
    """What the use cases need.

    Attributes:
        provider_timeout_seconds: How long one question to the provider may take; then its outcome is unknown.
        published: Called after a commit that left something in the outbox; wakes the relay.
        webhook_secrets: By provider, what its webhooks are signed with; nothing is taken from any other.
    """

    database: Database
    provider: PaymentProvider
    clock: Clock
    new_id: NewId
    provider_timeout_seconds: float
    published: Callable[[], None]
    webhook_secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
