"""Python's time to the well-known type."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def to_timestamp(time: datetime) -> Timestamp:
    """An aware moment as google.protobuf.Timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
