#!/usr/bin/env bash
# Ends with one sentence where the databases that there are have other passwords than the secrets that would be used now,
# as when SAGACITY_SECRETS was forgotten: they would not know a second set. Called by `make up` and `make roll`, before
# secrets are made.
#
#   same_secrets.sh COMPOSE...   the command, with its project and its file
set -euo pipefail

compose=("$@")
ours=${SAGACITY_SECRETS:-./secrets}
# As Compose reads it: from the folder of the file.
[[ "$ours" == /* ]] || ours=$(cd "$(dirname "$0")/.." && pwd)/${ours#./}

containers=$("${compose[@]}" ps --all --quiet)
[ -n "$containers" ] || exit 0
# shellcheck disable=SC2086 # ids, separated by lines
mounts=$(docker container inspect --format '{{range .Mounts}}{{println .Source .Destination}}{{end}}' $containers)
# The passwords of databases' administrators, which only databases have.
passwords=$(sed -n 's#^\(.*\) /run/secrets/\([^/]*_admin-password\)$#\2 \1#p' <<<"$mounts")
while read -r name theirs; do
  [ -n "$name" ] || continue
  # Docker Desktop tells where the host's folders are in its machine; and a checkout may have moved with its secrets.
  theirs=${theirs#/host_mnt}
  if ! [ -f "$ours/$name" ] || { [ -f "$theirs" ] && ! cmp -s "$theirs" "$ours/$name"; }; then
    echo "the databases have their passwords from ${theirs%/*}, and $ours has others or none: set SAGACITY_SECRETS to the" \
      "former, put that folder back where it is gone, or end the databases by make down" >&2
    exit 1
  fi
done <<<"$passwords"
