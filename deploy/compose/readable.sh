#!/usr/bin/env bash
# Ends with one sentence where a container could not read what is mounted into it: its process is another user than who
# checked this out, perhaps under a umask that leaves others out. Called by `make up` and `make roll`.
set -euo pipefail

cd "$(dirname "$0")/.."
# What compose.yaml mounts from here.
mounted=(compose/haproxy.cfg compose/create-roles.sql compose/kafka-log4j2.properties compose/otel-collector.yaml
  compose/jaeger.yaml compose/grafana grafana/dashboards prometheus load)
closed=$(find "${mounted[@]}" -name __pycache__ -prune -o -type d ! -perm -o=rx -print -o ! -type d ! -perm -o=r -print)
if [ -n "$closed" ]; then
  echo "containers could not read ${closed%%$'\n'*} in $PWD, and $(($(wc -l <<<"$closed") - 1)) more:" \
    "run 'chmod -R a+rX ${mounted[*]}' there" >&2
  exit 1
fi
