"""`make roll`, `make roll-back`, when `make up` builds: make itself, and a `docker` that notes its calls.

That the containers are made anew for real is shown by `make test-compose`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))[
    "services"
]
MAKE_SECONDS = 60
# Grafana looks into this folder again and again.
READ_AGAIN = "./grafana/dashboards"
# It has the image of the tag `there`, runs what $RUNNING names, and fails at what $FAILS_AT names.
DOCKER = """#!/bin/bash
echo "tag=$SAGACITY_TAG traces=$OTEL_EXPORTER_OTLP_ENDPOINT $*" >>"$CALLS"
case "$*" in
  "image inspect "*) [[ "$*" == *:there ]] ;;
  *" ps --quiet "*) for one in $RUNNING; do [[ "${@: -1}" == "$one" ]] && echo "id-$one"; done; true ;;
  "container inspect "*) echo "$MADE" ;;
  *" $FAILS_AT") exit 7 ;;
esac
"""
FORWARD = [
    "users-migrations",
    "inventory-migrations",
    "payments-migrations",
    "orders-migrations",
    "sagas-migrations",
    "users",
    "inventory",
    "payments",
    "orders",
    "orchestrator-1",
    "orchestrator-2",
    "gateway-1",
    "gateway-2",
]
LONG_AGO, FAR_OFF = "2001-01-01T00:00:00.123456789Z", "2999-01-01T00:00:00.123456789Z"


@dataclass
class Docker:
    """A `docker` for make to find, and what it was asked."""

    folder: Path

    def make(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run make with it; each call begins a new list."""
        self.folder.mkdir(exist_ok=True)
        program = self.folder / "docker"
        program.write_text(DOCKER, "utf-8")
        program.chmod(0o755)
        (self.folder / "calls").write_text("", "utf-8")
        environment = {
            "PATH": f"{self.folder}:{os.defpath}",
            "CALLS": str(self.folder / "calls"),
            "RUNNING": "",
            "FAILS_AT": "nothing",
            "MADE": FAR_OFF,
            **variables,
        }
        return subprocess.run(
            [str(shutil.which("make")), "--no-print-directory", *arguments],
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


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path / "bin")


def test_a_roll_migrates_and_then_makes_anew_who_is_called_before_who_calls(docker: Docker) -> None:
    done = docker.make("roll", "TAG=there")
    assert done.returncode == 0, done.stderr
    assert docker.anew() == FORWARD
    assert all("tag=there" in line for line in docker.calls(" up "))
    assert all("--no-deps --no-build --wait " in line for line in docker.calls(" up "))


def test_every_container_of_ours_is_rolled_but_the_operators_command() -> None:
    ours = {name for name, service in SERVICES.items() if service["image"].startswith("sagacity:")}
    assert set(FORWARD) == ours - {"operator"}


@pytest.mark.parametrize("name", FORWARD)
def test_a_roll_stops_at_the_first_failure(docker: Docker, name: str) -> None:
    done = docker.make("roll", "TAG=there", FAILS_AT=name)
    assert done.returncode != 0
    assert docker.anew() == FORWARD[: FORWARD.index(name) + 1]


def test_the_way_back_is_the_other_way_round_and_migrates_nothing(docker: Docker) -> None:
    done = docker.make("roll-back", "TAG=there")
    assert done.returncode == 0, done.stderr
    assert docker.anew() == [name for name in reversed(FORWARD) if not name.endswith("-migrations")]


def test_traces_go_on_where_a_collector_runs_and_only_there(docker: Docker) -> None:
    docker.make("roll", "TAG=there", RUNNING="proxy otel-collector")
    assert all(" traces=http://otel-collector:4317 " in line for line in docker.calls(" up "))
    docker.make("roll", "TAG=there", RUNNING="proxy")
    assert all(" traces= " in line for line in docker.calls(" up "))


def test_what_was_given_a_new_configuration_is_made_anew_at_the_end(docker: Docker) -> None:
    running = "proxy prometheus otel-collector jaeger grafana"
    docker.make("roll", "TAG=there", RUNNING=running, MADE=LONG_AGO)
    assert docker.anew() == [*FORWARD, *running.split()]
    forced = docker.calls("--force-recreate")
    assert [line.rpartition(" ")[2] for line in forced] == running.split()


def test_what_is_newer_than_its_configuration_stays_as_it_is(docker: Docker) -> None:
    docker.make("roll", "TAG=there", RUNNING="proxy prometheus otel-collector jaeger grafana", MADE=FAR_OFF)
    assert docker.anew() == FORWARD


def test_every_mounted_configuration_of_others_is_looked_at() -> None:
    script = (ROOT / "deploy" / "compose" / "roll.sh").read_text("utf-8")
    for name in ("proxy", "prometheus", "otel-collector", "jaeger", "grafana"):
        (looked_at,) = re.findall(rf"^follow {name} (.*)$", script, re.MULTILINE)
        for volume in SERVICES[name]["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./") and source != READ_AGAIN:
                assert any(path.startswith(source.removeprefix("./")) for path in looked_at.split()), volume


@pytest.mark.parametrize("target", ["roll", "image-there"])
@pytest.mark.parametrize(("tag", "builds"), [("there", 0), ("gone", 1), ("local", 1)])
def test_an_image_that_is_there_is_not_built_again_from_what_is_checked_out(
    docker: Docker, target: str, tag: str, builds: int
) -> None:
    assert docker.make(target, f"TAG={tag}").returncode == 0
    assert len(docker.calls(" build ")) == builds


def test_the_image_of_the_shoppers_is_made_where_they_are_asked_for(docker: Docker) -> None:
    docker.make("image-there", "TAG=gone", "PROFILES=obs,load")
    assert [re.findall(r"--tag (\S+)", line) for line in docker.calls(" build ")] == [
        ["sagacity:gone"],
        ["sagacity-load:gone"],
    ]
    docker.make("image-there", "TAG=there", "PROFILES=obs,load")
    assert docker.calls(" build ") == []


def test_up_builds_by_the_same_rule(docker: Docker) -> None:
    said = docker.make("--dry-run", "up", "TAG=there").stdout
    assert "docker image inspect sagacity:there" in said
    assert said.count("docker build") <= 1
