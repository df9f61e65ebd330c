"""Requests that are followed by the spans of their traces."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Client, Market, Shopper
from tests.trace_collector import Seen, TraceCollector

CLIENTS_SPAN = "b7ad6b7169203331"
REQUEST = "POST /api/v1/orders"
# What the orders context tells at the end of a saga.
ENDS = {
    "place_order": {"OrderConfirmed", "OrderRejected"},
    "cancel_order": {"OrderCancelled"},
    "refund_order": {"OrderRefunded"},
}


@dataclass
class Traced:
    """A suite whose processes all send their spans to one collector."""

    market: Market
    collector: TraceCollector

    async def shopper(self, token: str) -> tuple[Shopper, str]:
        """A customer whose requests from now on belong to a trace of their own, and its id."""
        shopper = await self.market.shopper(token)
        return shopper, self.follow(shopper)

    def follow(self, client: Client) -> str:
        """Have a client's requests from now on in a new trace; returns its id."""
        trace_id = secrets.token_hex(16)
        client.trace(f"00-{trace_id}-{CLIENTS_SPAN}-01")
        return trace_id

    async def sold(self) -> tuple[Shopper, str]:
        """A customer and their order, which is confirmed."""
        sku = await self.market.product(5)
        shopper = await self.market.shopper()
        answer = await shopper.place({sku: 1})
        assert answer.status == 201, answer
        return shopper, str(answer.order_id)

    async def whole(
        self,
        trace_id: str,
        senders: frozenset[str] = frozenset(),
        *,
        request: str = REQUEST,
        kind: str = "place_order",
    ) -> list[Seen]:
        """The spans of a trace once nothing is missing between them and all that has a part had it.

        Each process sends its own when it likes: the saga, its request, the facts of `senders`, and those who
        hear of them are waited for.
        """

        async def spans() -> list[Seen]:
            return self.collector.of_trace(trace_id)

        def is_whole(seen: list[Seen]) -> bool:
            ended = named(seen, "internal", f"saga {kind}") and named(seen, "server", request)
            sent = {span.process for span in seen if span.kind == "producer"}
            return bool(ended and senders <= sent and consumed(seen, ENDS[kind]) and not missing(seen))

        return await eventually(spans, until=is_whole)


def missing(spans: Iterable[Seen]) -> set[str]:
    """The parents that nobody sent; the client's own span is one, and the first of a trace has none."""
    spans = list(spans)
    return {span.parent_id for span in spans} - {span.span_id for span in spans} - {CLIENTS_SPAN, ""}


def consumed(spans: Iterable[Seen], ends: set[str]) -> bool:
    """Whether the statistics of users have had the end of what was asked for."""
    types = {f"sagacity.orders.v1.{end}" for end in ends}
    return any(span.kind == "consumer" and span.attributes["sagacity.event.type"] in types for span in spans)


def way_to(span: Seen, spans: Iterable[Seen]) -> list[tuple[str, str]]:
    """The process and the name of each span from the client's request down to this one."""
    by_id = {each.span_id: each for each in spans}
    way = [span]
    while (parent := by_id.get(way[0].parent_id)) is not None:
        way.insert(0, parent)
    assert way[0].parent_id == CLIENTS_SPAN
    return [(each.process, each.name) for each in way]


def named(spans: Iterable[Seen], kind: str, name: str) -> list[Seen]:
    return [span for span in spans if (span.kind, span.name) == (kind, name)]
