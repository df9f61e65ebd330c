#!/usr/bin/env bash
# Makes the containers of ours anew with the image SAGACITY_TAG, one after another, each healthy before the next; the first
# failure ends it, and what was not reached runs on as it was. Called by `make roll` and `make roll-back`.
#
#   roll.sh forward COMPOSE...   migrations, services, orchestrators, gateways, then what else has changed
#   roll.sh back COMPOSE...      gateways, orchestrators, services: the schema stays
#
# COMPOSE... is the command, with its project and its file.
set -euo pipefail

direction=${1:?forward or back}
shift
compose=("$@")
contexts=(users inventory payments orders sagas)
# Who is called before who calls.
processes=(users inventory payments orders orchestrator-1 orchestrator-2 gateway-1 gateway-2)
# Longer than a container may take to stop and then to be healthy.
wait_seconds=400
folder=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=ports.sh
source "$folder/compose/ports.sh"

anew() { # service, options
  local service=$1
  shift
  echo "roll: $service"
  "${compose[@]}" up --detach --no-deps --no-build --wait --wait-timeout "$wait_seconds" "$@" "$service"
}

# What is others': anew where compose.yaml says something else of it than it was made by. The engine does not see that a
# mounted file is another one: a file that is newer than its container is.
follow() { # service, paths
  local service=$1 container made
  shift
  container=$("${compose[@]}" --profile obs ps --quiet "$service")
  [ -n "$container" ] || return 0
  made=$(docker container inspect --format '{{.Created}}' "$container")
  if [ -n "$(find "${@/#/$folder/}" -newermt "${made%.*}Z")" ]; then
    anew "$service" --force-recreate
  else
    anew "$service"
  fi
}

# Traces go on where a collector runs, whatever was said this time.
collector=$("${compose[@]}" --profile obs ps --quiet otel-collector)
if [ -n "$collector" ]; then
  export OTEL_EXPORTER_OTLP_ENDPOINT=${OTEL_EXPORTER_OTLP_ENDPOINT:-http://otel-collector:4317}
fi
keep_ports

case "$direction" in
  forward)
    for context in "${contexts[@]}"; do
      echo "roll: $context-migrations"
      "${compose[@]}" run --rm --no-deps -T "$context-migrations"
    done
    for process in "${processes[@]}"; do anew "$process"; done
    ;;
  back)
    for ((at = ${#processes[@]} - 1; at >= 0; at--)); do anew "${processes[at]}"; done
    ;;
  *)
    echo "roll: forward or back, not $direction" >&2
    exit 2
    ;;
esac
follow proxy compose/haproxy.cfg
follow prometheus prometheus/prometheus.yaml prometheus/rules
follow otel-collector compose/otel-collector.yaml
follow jaeger compose/jaeger.yaml
follow grafana compose/grafana
