# shellcheck shell=bash
# For up.sh and roll.sh, which have COMPOSE... in `compose`: what publishes a port stays on it, whatever was said this
# time, unless the environment or deploy/.env says another one.

keep_port() { # variable, service
  local container port
  if [ -n "${!1:-}" ] || grep -Eqs "^ *(export +)?$1 *[=:]" "$(dirname "${BASH_SOURCE[0]}")/../.env"; then return 0; fi
  # Two of them where making one anew was cut off.
  container=$("${compose[@]}" --profile obs --profile load ps --all --quiet "$2")
  container=${container%%$'\n'*}
  [ -n "$container" ] || return 0
  port=$(docker container inspect --format '{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}}{{end}}{{end}}' "$container")
  if [ -n "$port" ]; then export "$1=$port"; fi
}

keep_ports() {
  keep_port SAGACITY_PORT proxy
  keep_port SAGACITY_PROMETHEUS_PORT prometheus
  keep_port SAGACITY_GRAFANA_PORT grafana
  keep_port SAGACITY_JAEGER_PORT jaeger
  keep_port SAGACITY_LOCUST_PORT locust
}
