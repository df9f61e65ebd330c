"""Facts on their way: from the outboxes by the relays through Kafka to the consumers."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Board, Row, graph, number, wide
from deploy.grafana.promql import rate

_RED: Final = Row(
    "Events: rate, errors, time",
    (
        number(
            "Oldest not published",
            "s",
            "Above a minute: Kafka or the relay is away, or a key is stuck.",
            "max(sagacity_outbox_oldest_age_seconds)",
            alert="SagacityOutboxOld",
            red_from=60,
        ),
        number(
            "Events behind",
            "short",
            "What the consumers have not read yet; `sagacity events lag` says where.",
            "sum(sagacity_consumer_lag)",
            alert="SagacityConsumerLagging",
            red_from=1000,
        ),
        number(
            "Dead letters",
            "short",
            "Events that nobody has handled since they failed: `sagacity events dead-letters list`.",
            "sum(max by (group) (sagacity_dead_letters))",
            alert="SagacityDeadLetters",
            red_from=1,
        ),
        number(
            "Consumers halted",
            "short",
            "Twenty keys in a row failed, so it is the code.",
            'sum(max by (group) (sagacity_consumer_stopped{state="HALTED"}))',
            alert="SagacityConsumerHalted",
            red_from=1,
        ),
        graph(
            "Published",
            "ops",
            "Events that Kafka acknowledged, by topic.",
            (rate("sagacity_relay_published_total", "topic"), "{{topic}}"),
        ),
        graph(
            "Applied",
            "ops",
            "Events that had their effect, by consumer.",
            (rate("sagacity_consumer_applied_total", "group"), "{{group}}"),
        ),
        graph(
            "Age of the oldest event that is not published",
            "s",
            "By topic. All of them: Kafka is away. One: its relay, its database, or a stuck key.",
            ("max by (topic) (sagacity_outbox_oldest_age_seconds)", "{{topic}}"),
            alert="SagacityOutboxOld",
        ),
    ),
)
_OUTBOX: Final = Row(
    "Outboxes and relays",
    (
        graph(
            "Waiting",
            "short",
            "Not published, 100,000 at most. Growing while little is published: the relay is too slow.",
            ("max by (topic) (sagacity_outbox_waiting)", "{{topic}}"),
            alert="SagacityOutboxOld",
        ),
        graph(
            "Halts and refused events",
            "ops",
            "Halts: Kafka was away, `relay_halted` in the log. Refused: `relay_key_stuck` names the event.",
            (rate("sagacity_relay_outages_total", "topic"), "{{topic}} halted"),
            (rate("sagacity_relay_stuck_total", "topic"), "{{topic}} refused"),
            alert="SagacityRelayKeyStuck",
        ),
        graph(
            "A transaction holds the horizon for",
            "s",
            "Above a minute publishing becomes slower, for nothing is vacuumed. Find who holds it.",
            ("max by (topic) (sagacity_outbox_oldest_transaction_seconds)", "{{topic}}"),
            alert="SagacityOutboxHorizonHeld",
        ),
        graph(
            "Debezium: slots without a reader",
            "short",
            "Only where Debezium publishes. 1: nobody reads that slot, and nothing is published.",
            ("1 - max by (topic) (sagacity_outbox_slot_active)", "{{topic}}"),
            alert="SagacityOutboxSlotAway",
        ),
        graph(
            "Debezium: log not confirmed",
            "bytes",
            "Only where Debezium publishes. Growing: facts come late, and the log fills PostgreSQL's disk.",
            ("max by (topic) (sagacity_outbox_slot_behind_bytes)", "{{topic}}"),
            alert="SagacityOutboxSlotBehind",
        ),
        graph(
            "Debezium: stands still for",
            "s",
            "Only where Debezium publishes. Above some minutes: an event waits, and nothing is confirmed.",
            ("max by (topic) (sagacity_outbox_slot_stalled_seconds)", "{{topic}}"),
            alert="SagacityOutboxSlotStalled",
        ),
    ),
)
_CONSUMERS: Final = Row(
    "Consumers",
    (
        wide(
            "Behind",
            "short",
            "Events that a consumer has not read yet. A rebuild is behind until it has read its topic.",
            ("sum by (group, topic) (sagacity_consumer_lag)", "{{group}} {{topic}}"),
            alert="SagacityConsumerLagging",
        ),
        wide(
            "Dead letters, keys that they halt",
            "short",
            "What nobody has replayed or discarded. A halted key waits, all others flow.",
            ("max by (group) (sagacity_dead_letters)", "{{group}} dead letters"),
            ("max by (group) (sagacity_halted_keys)", "{{group}} keys"),
            alert="SagacityDeadLetters",
        ),
        wide(
            "New dead letters, duplicates",
            "ops",
            "Letters need a person. Duplicates come after every rebalance and outage, and are dropped.",
            (rate("sagacity_consumer_parked_total", "group"), "{{group}} dead letters"),
            (rate("sagacity_consumer_duplicates_total", "group"), "{{group}} duplicates"),
            alert="SagacityDeadLetters",
        ),
        wide(
            "Gaps, numbers that went back",
            "ops",
            "Any: facts are missing in a topic, or a database was restored.",
            (rate("sagacity_consumer_gaps_total", "group"), "{{group}} gap"),
            (
                rate("sagacity_consumer_regressions_total", "group, kind"),
                "{{group}} {{kind}} went back",
            ),
            alert="SagacityFactsMissing",
        ),
        wide(
            "Stopped, halted by outages",
            "short",
            "1 while a consumer is PAUSED, HALTED by itself, or cannot consume; and outages of an hour.",
            ("max by (group) (sagacity_consumer_outage)", "{{group}} cannot consume"),
            ("max by (group, state) (sagacity_consumer_stopped)", "{{group}} {{state}}"),
            ("sum by (group) (increase(sagacity_consumer_outages_total[1h]))", "{{group}} outages"),
            alert="SagacityConsumerHalted",
        ),
    ),
)
EVENTS: Final = Board(
    "events",
    "Sagacity: events",
    "Facts on their way from the outboxes to the consumers.",
    (_RED, _OUTBOX, _CONSUMERS),
)
