"""Metrics outside of the processes: their catalogue as a page, recording rules, alerts and their tests."""
