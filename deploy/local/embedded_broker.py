"""`python -m deploy.local.embedded_broker`: prints its port, then serves until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys

from confluent_kafka import Producer

from deploy.local.children import LOOPBACK

METADATA_SECONDS = 10
NOTICE = (
    "embedded Kafka broker on {address}: a development convenience that keeps nothing on disk "
    "and serves one consumer per group; no guarantee is tested on it\n"
)


def main() -> None:
    """Serve a mock cluster of one broker on a free port of the loopback interface."""
    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked before librdkafka makes its threads, so that none of them takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    cluster = Producer({"test.mock.num.brokers": 1})
    (broker,) = cluster.list_topics(timeout=METADATA_SECONDS).brokers.values()
    sys.stderr.write(NOTICE.format(address=f"{LOOPBACK}:{broker.port}"))
    sys.stderr.flush()
    sys.stdout.write(f"{broker.port}\n")
    sys.stdout.flush()
    signal.sigwait(ends)


if __name__ == "__main__":
    main()
