"""What a consumer counts; the gauges have what this process knows."""

from chassis.telemetry import counter, gauge

APPLIED = counter("sagacity_consumer_applied", "Events that were applied", "group")
DUPLICATES = counter("sagacity_consumer_duplicates", "Events that had been applied before", "group")
PARKED = counter("sagacity_consumer_parked", "Events that went to the dead letters", "group")
GAPS = counter("sagacity_consumer_gaps", "Events whose predecessor never came", "group")
# kind "offset": Kafka's log is shorter than what was read of it; "sequence": two facts have one number.
REGRESSIONS = counter("sagacity_consumer_regressions", "Times that numbers went back", "group", "kind")
OUTAGES = counter("sagacity_consumer_outages", "Times that consuming came to a halt", "group")
STOPPED = gauge("sagacity_consumer_stopped", "1 while it may not apply anything", "group", "state")
LAG = gauge("sagacity_consumer_lag", "Events behind the end", "group", "topic", "partition")
