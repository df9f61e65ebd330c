"""Grafana dashboards: `boards` says what is on them, `python -m deploy.grafana` writes their JSON."""
