"""PromQL that is written again and again."""

from __future__ import annotations

from typing import Final

# What is no answer to the caller's question; refusals are answers.
FAILED: Final = 'grpc_code=~"UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"'


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """What a counter rises by in a second, added up by some labels."""
    return f"sum{_by(by)}(rate({metric}{_braces(labels)}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str = "", labels: str = "") -> str:
    """The value that this share of the observations is not above, by some labels."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'le, {by}' if by else 'le', labels)})"


def average(histogram: str, by: str) -> str:
    """The mean of the observations, by some labels."""
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""
