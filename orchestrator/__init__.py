"""The orchestrator owns the saga log: it accepts orders with one durable write and drives each to its end."""
