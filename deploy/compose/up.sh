#!/usr/bin/env bash
# Starts the containers and waits until they are healthy. What runs stays what it is: its release, its ports, and
# whether it sends traces, unless another is asked for. Called by `make up`.
#
#   up.sh tag ASKED COMPOSE...        tells the tag to use: ASKED, else that of what runs, else `local`
#   up.sh start PROFILES COMPOSE...   starts all containers with the image SAGACITY_TAG; with PROFILES (obs,load) those
#                                     too, and where all else runs, ours by SAGACITY_TAG, those alone
#
# COMPOSE... is the command, with its project and its file.
set -euo pipefail

action=${1:?tag or start}
given=${2?the tag that is asked for, or the profiles}
shift 2
compose=("$@")
processes=(users inventory payments orders orchestrator-1 orchestrator-2 gateway-1 gateway-2)
others=(proxy kafka users-database orders-database payments-database inventory-database sagas-database)
obs=(prometheus grafana otel-collector jaeger)
load=(locust)
collector=http://otel-collector:4317
# Longer than the first start of all takes on a small machine.
wait_seconds=600
# shellcheck source=ports.sh
source "$(dirname "$0")/ports.sh"

# The containers of ours that run, and the tags of their images, each once.
running=$("${compose[@]}" ps --quiet "${processes[@]}")
tags=
if [ -n "$running" ]; then
  # shellcheck disable=SC2086 # ids, separated by lines
  images=$(docker container inspect --format '{{.Config.Image}}' $running)
  tags=$(sed 's/.*://' <<<"$images" | sort -u)
fi

tag() {
  if [ -n "$given" ]; then
    echo "$given"
  elif [ "$(wc -w <<<"$tags")" -gt 1 ]; then
    echo "up: containers of ${tags//$'\n'/ and } run, as after a roll that has not ended: go on by make roll TAG=..., or" \
      "say which by make up TAG=..., which makes all of them anew at once" >&2
    return 1
  else
    echo "${tags:-local}"
  fi
}

# Where ours send their traces; nothing: nowhere.
endpoint() {
  docker container inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "${running%%$'\n'*}" |
    sed -n 's/^OTEL_EXPORTER_OTLP_ENDPOINT=//p'
}

# Whether all that belongs to no profile runs, ours by the release that is asked for.
all_run() {
  local standing
  standing=$("${compose[@]}" ps --quiet "${processes[@]}" "${others[@]}")
  [ "$tags" = "$SAGACITY_TAG" ] && [ "$(wc -l <<<"$standing")" -eq "$((${#processes[@]} + ${#others[@]}))" ]
}

up() { # options and services
  "${compose[@]}" "${profiles[@]}" up --detach --no-build --wait --wait-timeout "$wait_seconds" "$@"
}

start() {
  local profile theirs=() traces=
  profiles=()
  for profile in ${given//,/ }; do
    profiles+=(--profile "$profile")
    case "$profile" in
      obs) theirs+=("${obs[@]}") ;;
      load) theirs+=("${load[@]}") ;;
      *) echo "up: PROFILES=obs,load, and not $profile" >&2 && return 2 ;;
    esac
  done
  if [ -n "$running" ]; then traces=$(endpoint); fi
  # By another release ours are made anew in any case. Those of this one get it from a roll: one variable more would make
  # all of them anew at once.
  if [[ ",$given," == *,obs,* ]] && [ "$tags" != "$SAGACITY_TAG" ]; then traces=${traces:-$collector}; fi
  if [ -n "$traces" ]; then export OTEL_EXPORTER_OTLP_ENDPOINT=${OTEL_EXPORTER_OTLP_ENDPOINT:-$traces}; fi
  keep_ports
  if [ "${#theirs[@]}" -gt 0 ] && all_run; then
    up --no-deps "${theirs[@]}"
  else
    up --remove-orphans
  fi
  if [[ ",$given," == *,obs,* ]] && [ -z "${OTEL_EXPORTER_OTLP_ENDPOINT:-}" ]; then
    echo "traces are sent from the next roll on: make roll TAG=$SAGACITY_TAG"
  fi
  echo "the gateway is on http://$("${compose[@]}" port proxy 8080); who may log in: docs/how-to/compose.md"
}

case "$action" in
  tag) tag ;;
  start) start ;;
  *) echo "up: tag or start, not $action" >&2 && exit 2 ;;
esac
