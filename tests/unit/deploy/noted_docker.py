"""A `docker` and a `python` for make to find: they note what they are asked, and do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MAKE_SECONDS = 60
# It has the image of the tag `there`. What $RUNNING names runs: by the release $RUNS, but what $BEHIND names
# by the one before; ours were told $TRACES, what publishes a port was told $PORT, and databases have their
# passwords from $MOUNTED. It fails at what $FAILS_AT names.
DOCKER = """#!/bin/bash
echo "tag=$SAGACITY_TAG traces=$OTEL_EXPORTER_OTLP_ENDPOINT port=$SAGACITY_PORT $*" >>"$CALLS"
among() { [[ " $2 " == *" $1 "* ]]; }
case "$*" in
  "image inspect "*) [[ "$*" == *:there ]] ;;
  *" ps --all --quiet") for one in $RUNNING; do echo "id-$one"; done ;;
  *" ps --quiet "* | *" ps --all --quiet "*)
    for one in "$@"; do among "$one" "$RUNNING" && echo "id-$one"; done; true ;;
  "container inspect --format {{.Created}} "*) echo "$MADE" ;;
  "container inspect --format {{.Config.Image}} "*)
    for one in "${@:5}"; do
      among "${one#id-}" "$BEHIND" && echo sagacity:before || echo "sagacity:$RUNS"
    done ;;
  "container inspect --format {{range .HostConfig.PortBindings"*) echo "$PORT" ;;
  "container inspect --format {{range .Mounts"*)
    echo "/srv/kafka.properties /etc/kafka.properties"
    echo "$MOUNTED/orders_admin-password /run/secrets/orders_admin-password" ;;
  "container inspect --format {{range"*) echo LANG=C.UTF-8; echo "OTEL_EXPORTER_OTLP_ENDPOINT=$TRACES" ;;
  *" $FAILS_AT") exit 7 ;;
esac
"""
PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
"""
# What the databases that run have of their secrets.
PASSWORD = "orders_admin-password"
FAR_OFF = "2999-01-01T00:00:00.123456789Z"


@dataclass
class Docker:
    """Where the two are, and what they were asked."""

    folder: Path

    def make(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run make with them; each call begins a new list."""
        # The packages are installed, or this would not run.
        here = ["--no-print-directory", "--assume-old", ".venv/.installed", f"BIN={self.folder}"]
        return self.run(str(shutil.which("make")), *here, *arguments, **variables)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command with them; each call begins a new list."""
        secrets = self.folder / "secrets"
        secrets.mkdir(parents=True, exist_ok=True)
        (secrets / PASSWORD).write_text("theirs", "utf-8")
        for name, text in (("docker", DOCKER), ("python", PYTHON)):
            (self.folder / name).write_text(text, "utf-8")
            (self.folder / name).chmod(0o755)
        (self.folder / "calls").write_text("", "utf-8")
        environment = {
            "PATH": f"{self.folder}:{os.defpath}",
            "CALLS": str(self.folder / "calls"),
            "RUNNING": "",
            "RUNS": "there",
            "BEHIND": "",
            "TRACES": "",
            "FAILS_AT": "nothing",
            "MADE": FAR_OFF,
            "PORT": "",
            "MOUNTED": str(secrets),
            "SAGACITY_SECRETS": str(secrets),
            **variables,
        }
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=MAKE_SECONDS,
        )

    def calls(self, having: str) -> list[str]:
        """Return the calls with `having` in them."""
        return [line for line in (self.folder / "calls").read_text("utf-8").splitlines() if having in line]

    def anew(self) -> list[str]:
        """Return what was run or made anew, in order."""
        done = [line for line in self.calls("") if " up " in line or " run " in line]
        return [line.rpartition(" ")[2] for line in done]
