"""What the topics of events are made with, wherever that is; docs/operations.md says what it means."""

from typing import Final

# A consumer that is away for longer misses facts, for good.
RETENTION_DAYS: Final = 30
RETENTION_MS: Final = RETENTION_DAYS * 24 * 60 * 60 * 1_000
