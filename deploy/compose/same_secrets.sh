#!/usr/bin/env bash
# Ends with one sentence where databases have their passwords from another folder than the one that would be used now,
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
folders=$(sed -n 's#/[^/]*_admin-password /run/secrets/[^/]*$##p' <<<"$mounts" | sort -u)
while read -r theirs; do
  # Docker Desktop tells where the host's folders are in its machine.
  theirs=${theirs#/host_mnt}
  if [ -n "$theirs" ] && ! [ "$theirs" -ef "$ours" ]; then
    echo "the databases have their passwords from $theirs, and $ours is not that folder: set SAGACITY_SECRETS to the former," \
      "or put that folder back where it is gone" >&2
    exit 1
  fi
done <<<"$folders"
