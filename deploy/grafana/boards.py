"""The dashboards: on each first rate, errors and time, then what explains them."""

from __future__ import annotations

from typing import Final

from deploy.grafana.event_panels import EVENTS
from deploy.grafana.order_panels import ORDERS
from deploy.grafana.panels import Board
from deploy.grafana.process_panels import DATABASE, SERVICES
from deploy.grafana.saga_panels import SAGAS

BOARDS: Final[tuple[Board, ...]] = (ORDERS, SAGAS, EVENTS, SERVICES, DATABASE)
