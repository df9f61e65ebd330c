"""The `sagacity` command: how operators look into sagas and repair them, as a client of the orchestrator."""
