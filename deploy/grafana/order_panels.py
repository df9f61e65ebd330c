"""Orders as clients see them: REST, what became of orders, the payment provider."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Board, Row, graph, number, stacked
from deploy.grafana.promql import quantile, rate

_REST: Final = 'http_route!~"/healthz|/readyz|/api/v1/orders/{order_id}/events"'
_PLACING: Final = 'http_method="POST", http_route="/api/v1/orders"'


def _placing(share: float) -> tuple[str, str]:
    return quantile(share, "http_server_request_seconds", labels=_PLACING), f"p{share * 100:g}"


_RED: Final = Row(
    "REST: rate, errors, time",
    (
        number(
            "5xx now",
            "percentunit",
            "Share of five minutes' requests answered with 5xx; the objective is 0.1 % of 30 days. "
            "Which route, says the picture below.",
            "sagacity:http_errors:ratio_rate5m",
            alert="SagacityAvailabilityBurnsFast",
            red_from=0.0144,
        ),
        number(
            "5xx in three days",
            "percentunit",
            "Above 0.1 % the error budget of 30 days does not last.",
            "sagacity:http_errors:ratio_rate3d",
            alert="SagacityAvailabilityBurnsSlowly",
            red_from=0.001,
        ),
        number(
            "Slow orders now",
            "percentunit",
            "Share of the orders of five minutes that took more than 2.5 s; the objective is 1 % of 30 days.",
            "sagacity:slow_orders:ratio_rate5m",
            alert="SagacityOrderLatencyBurnsFast",
            red_from=0.144,
        ),
        number(
            "Slow orders in three days",
            "percentunit",
            "Above 1 % the budget of 30 days does not last.",
            "sagacity:slow_orders:ratio_rate3d",
            alert="SagacityOrderLatencyBurnsSlowly",
            red_from=0.01,
        ),
        stacked(
            "Requests by status",
            "reqps",
            "499: clients that left. 429 and 503: refused for load, or a backend is away.",
            (rate("http_server_requests_total", "http_status", _REST), "{{http_status}}"),
        ),
        graph(
            "5xx by route",
            "reqps",
            "Which route fails. All of them: the gateway or a backend; one: what it needs.",
            (
                # Every route shows its failures from the start, most of them none.
                rate("http_server_requests_total", "http_method, http_route", f'http_status=~"5..", {_REST}')
                + " > 0",
                "{{http_method}} {{http_route}}",
            ),
            alert="SagacityAvailabilityBurnsFast",
        ),
        graph(
            "Time to place an order",
            "s",
            "With `Prefer: wait`, until it is settled. Slow: the sagas' dashboard says which step.",
            *(_placing(share) for share in (0.5, 0.95, 0.99)),
            alert="SagacityOrderLatencyBurnsFast",
        ),
    ),
)
_OUTCOMES: Final = Row(
    "Orders",
    (
        stacked(
            "Orders that ended",
            "ops",
            "COMPLETED: confirmed. COMPENSATED: undone: no stock, a declined card, a cancellation.",
            (
                rate("saga_finished_total", "outcome", 'kind="place_order"'),
                "{{outcome}}",
            ),
        ),
        graph(
            "Orders accepted",
            "ops",
            "Stands at 0 under load: look at the gateway's 503s.",
            (rate("saga_started_total", labels='kind="place_order"'), "accepted"),
        ),
        stacked(
            "Other requests about orders",
            "ops",
            "Cancellations, refunds, shipments that ended, by how.",
            (
                rate("saga_finished_total", "kind, outcome", 'kind!="place_order"'),
                "{{kind}} {{outcome}}",
            ),
        ),
        graph(
            "Cancellations that wait",
            "short",
            "Orders that a user or the provider let go. Growing: is the orchestrator there?",
            ("max(sagacity_cancellations_waiting)", "waiting"),
            alert="SagacityCancellationWaiting",
        ),
        graph(
            "Oldest cancellation",
            "s",
            "Above some minutes: its `answer` in `cancellation_request` says what holds it up.",
            ("max(sagacity_cancellations_oldest_seconds)", "age"),
            alert="SagacityCancellationWaiting",
        ),
        graph(
            "Live streams",
            "short",
            "Streams of order updates that are open, by gateway; near the bound more are refused.",
            ("gateway_live_streams", "{{instance}}"),
        ),
    ),
)
_PROVIDER: Final = Row(
    "Payment provider",
    (
        stacked(
            "Calls by outcome",
            "reqps",
            "`unknown` is asked again under the same keys. Many of them: the provider has an outage.",
            (rate("payments_provider_calls_total", "outcome"), "{{outcome}}"),
            alert="SagacityProviderUnknown",
        ),
        graph(
            "Time of its answers, p95",
            "s",
            "Orders wait for it.",
            (
                quantile(0.95, "payments_provider_seconds", "operation"),
                "{{operation}}",
            ),
        ),
        graph(
            "Webhooks and alarms",
            "ops",
            "`refused`: a wrong secret or clock, or somebody tries. Alarms: compare books.",
            (rate("payments_provider_webhooks_total", "outcome"), "webhook {{outcome}}"),
            (rate("payments_provider_alarms_total", "kind"), "alarm {{kind}}"),
            alert="SagacityProviderAlarm",
        ),
        graph(
            "Refunds of the provider",
            "short",
            "Waiting: their order is not confirmed yet. Refused: they do not fit; a person has to compare.",
            ("max(sagacity_provider_refunds_waiting)", "waiting"),
            ("max(sagacity_provider_refunds_refused)", "refused"),
            alert="SagacityProviderRefundRefused",
        ),
    ),
)
ORDERS: Final = Board(
    "orders",
    "Sagacity: orders",
    "What clients see of orders, and what became of them.",
    (_RED, _OUTCOMES, _PROVIDER),
)
