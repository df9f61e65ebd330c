"""`make roll`, `make roll-back`, when an image is built: make itself, and a `docker` that notes its calls.

That the containers are made anew for real is shown by `make test-compose`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.noted_docker import FAR_OFF, ROOT, Docker

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))[
    "services"
]
# Grafana looks into this folder again and again.
READ_AGAIN = "./grafana/dashboards"
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
LONG_AGO = "2001-01-01T00:00:00.123456789Z"
OTHERS = "proxy prometheus otel-collector jaeger grafana"


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
    docker.make("roll", "TAG=there", RUNNING=OTHERS, MADE=LONG_AGO)
    assert docker.anew() == [*FORWARD, *OTHERS.split()]
    forced = docker.calls("--force-recreate")
    assert [line.rpartition(" ")[2] for line in forced] == OTHERS.split()


def test_what_is_newer_than_its_configuration_is_left_to_the_engine_to_compare(docker: Docker) -> None:
    # It makes anew what has another image, limit or command, and nothing else.
    docker.make("roll", "TAG=there", RUNNING=OTHERS, MADE=FAR_OFF)
    assert docker.anew() == [*FORWARD, *OTHERS.split()]
    assert docker.calls("--force-recreate") == []


def test_what_does_not_run_is_not_started_by_a_roll(docker: Docker) -> None:
    docker.make("roll", "TAG=there", RUNNING="proxy")
    assert docker.anew() == [*FORWARD, "proxy"]


@pytest.mark.parametrize("target", ["roll", "roll-back", "up"])
def test_secrets_that_a_release_has_more_are_made_before_its_containers(docker: Docker, target: str) -> None:
    assert docker.make(target, "TAG=there").returncode == 0
    calls = docker.calls("")
    made = next(at for at, line in enumerate(calls) if "-m deploy.compose.make_secrets" in line)
    assert made < min(at for at, line in enumerate(calls) if " up " in line or " run " in line)


def test_secrets_are_made_where_compose_looks_for_them(docker: Docker) -> None:
    for given, folder in (
        ("", ""),
        ("../elsewhere", " ../elsewhere"),
        ("/srv/secrets", " /srv/secrets"),
    ):
        assert docker.make("secrets", SAGACITY_SECRETS=given).returncode == 0
        assert docker.calls("") == [f"python -m deploy.compose.make_secrets{folder}"]


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
