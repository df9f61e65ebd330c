"""`make up`: what it starts, by which release, with traces or without; and what it refuses to begin with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.noted_docker import ROOT, Docker

FOLDER = ROOT / "deploy" / "compose"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))[
    "services"
]
OURS = [
    name
    for name, service in SERVICES.items()
    if service["image"].startswith("sagacity:") and service["restart"] != "no"
]
ALL = " ".join(
    name for name, service in SERVICES.items() if service["restart"] != "no" and "profiles" not in service
)
COLLECTOR = "http://otel-collector:4317"
SCRIPT_SECONDS = 30


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path / "bin")


def up(docker: Docker) -> tuple[str, str, str]:
    """Return the release, where traces go and the options and services, of the one `up` that was made."""
    (call,) = docker.calls(" up ")
    found = re.fullmatch(r"tag=(\S*) traces=(\S*) port=\S* compose .*?compose\.yaml (.*)", call)
    assert found, call
    return found[1], found[2], re.sub(r"up --detach --no-build --wait --wait-timeout \d+ ", "up ", found[3])


def test_a_first_start_is_the_release_that_is_asked_for_or_else_what_is_checked_out(docker: Docker) -> None:
    assert docker.make("up", "TAG=there").returncode == 0
    assert up(docker) == ("there", "", "up --remove-orphans")
    assert docker.calls(" build ") == []
    assert docker.make("up").returncode == 0
    assert up(docker) == ("local", "", "up --remove-orphans")
    assert len(docker.calls(" build ")) == 1


def test_a_first_start_with_something_to_take_traces_sends_them(docker: Docker) -> None:
    docker.make("up", "TAG=there", "PROFILES=obs")
    assert up(docker) == ("there", COLLECTOR, "--profile obs up --remove-orphans")
    docker.make("up", "TAG=there", "PROFILES=load")
    assert up(docker) == ("there", "", "--profile load up --remove-orphans")


def test_what_runs_keeps_its_release_and_its_traces(docker: Docker) -> None:
    assert docker.make("up", RUNNING=ALL, TRACES=COLLECTOR).returncode == 0
    assert up(docker) == ("there", COLLECTOR, "up --remove-orphans")
    assert docker.calls(" build ") == []


def test_a_profile_beside_what_runs_starts_what_is_its_own(docker: Docker) -> None:
    done = docker.make("up", "PROFILES=obs,load", RUNNING=ALL)
    assert done.returncode == 0, done.stderr
    theirs = "prometheus grafana otel-collector jaeger locust"
    assert up(docker) == ("there", "", f"--profile obs --profile load up --no-deps {theirs}")
    assert "make roll TAG=there" in done.stdout, "traces come by a roll, and nobody would guess it"
    done = docker.make("up", "PROFILES=obs", RUNNING=ALL, TRACES=COLLECTOR)
    assert "make roll" not in done.stdout


@pytest.mark.parametrize("name", ALL.split())
def test_a_profile_beside_what_runs_in_part_starts_the_rest_too(docker: Docker, name: str) -> None:
    rest = " ".join(one for one in ALL.split() if one != name)
    docker.make("up", "PROFILES=obs", RUNNING=rest)
    assert up(docker) == ("there", "", "--profile obs up --remove-orphans"), "what runs is not made anew"


def test_another_release_is_started_where_it_is_asked_for_and_sends_traces_where_something_takes_them(
    docker: Docker,
) -> None:
    docker.make("up", "TAG=there", "PROFILES=obs", RUNNING=ALL, RUNS="before")
    assert up(docker) == ("there", COLLECTOR, "--profile obs up --remove-orphans")
    docker.make("up", "TAG=there", "PROFILES=load", RUNNING=ALL, RUNS="before")
    assert up(docker) == ("there", "", "--profile load up --remove-orphans")
    elsewhere = "http://collector.example:4317"
    docker.make("up", "TAG=there", "PROFILES=obs", RUNNING=ALL, RUNS="before", TRACES=elsewhere)
    assert up(docker) == ("there", elsewhere, "--profile obs up --remove-orphans")


def test_nobody_guesses_which_release_it_is_where_two_of_them_run(docker: Docker) -> None:
    done = docker.make("up", RUNNING=ALL, BEHIND="gateway-1 gateway-2")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "before and there" in said[0]
    assert docker.calls(" up ") == docker.calls(" build ") == []


def test_a_profile_that_is_not_there_is_an_error(docker: Docker) -> None:
    done = docker.make("up", "TAG=there", "PROFILES=trace")
    assert done.returncode != 0
    assert "not trace" in done.stderr
    assert docker.calls(" up ") == []


def test_the_script_knows_what_the_file_has() -> None:
    script = (FOLDER / "up.sh").read_text("utf-8")
    listed = {name: names.split() for name, names in re.findall(r"^(\w+)=\(([^)]*)\)$", script, re.MULTILINE)}
    assert sorted(listed["processes"]) == sorted(OURS)
    assert sorted(listed["processes"] + listed["others"]) == sorted(ALL.split())
    for profile in ("obs", "load"):
        theirs = [name for name, service in SERVICES.items() if service.get("profiles") == [profile]]
        assert sorted(listed[profile]) == sorted(theirs)


def looked_at(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run readable.sh as if `folder` were the repository."""
    return subprocess.run(
        [folder / "deploy" / "compose" / "readable.sh"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SCRIPT_SECONDS,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is mounted, which others may read."""
    for name in ("compose", "grafana", "prometheus", "load"):
        shutil.copytree(
            ROOT / "deploy" / name, tmp_path / "deploy" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for path in [tmp_path / "deploy", *(tmp_path / "deploy").rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
    return tmp_path


def test_what_others_may_read_is_mounted(checkout: Path) -> None:
    cache = checkout / "deploy" / "load" / "__pycache__"
    cache.mkdir()
    cache.chmod(0o700)
    done = looked_at(checkout)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("compose/haproxy.cfg", 0o640),
        ("compose/create-roles.sql", 0o600),
        ("prometheus/rules", 0o750),
        ("prometheus/rules", 0o744),
        ("prometheus/rules/sagas.yaml", 0o600),
        ("grafana/dashboards/sagas.json", 0o640),
        ("compose/grafana/datasources", 0o700),
    ],
)
def test_a_checkout_that_containers_could_not_read_is_one_sentence_that_says_what_to_do(
    checkout: Path, path: str, mode: int
) -> None:
    (checkout / "deploy" / path).chmod(mode)
    done = looked_at(checkout)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert path in sentence
    (command,) = re.findall(r"'(chmod -R a\+rX [^']*)'", sentence)
    subprocess.run(command.split(), cwd=checkout / "deploy", check=True, timeout=SCRIPT_SECONDS)
    assert looked_at(checkout).returncode == 0


def test_everything_that_is_mounted_from_here_is_looked_at() -> None:
    (listed,) = re.findall(r"mounted=\(([^)]*)\)", (FOLDER / "readable.sh").read_text("utf-8"))
    sources = {volume.partition(":")[0] for one in SERVICES.values() for volume in one.get("volumes", [])}
    assert {f"./{path}" for path in listed.split()} == {one for one in sources if one.startswith("./")}


@pytest.mark.parametrize("target", ["up", "roll", "roll-back"])
def test_that_is_asked_before_anything_is_started(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (first,) = re.findall(rf"^{target}: (\S+)", makefile, re.MULTILINE)
    assert first == "mounted"
    assert re.search(r"^mounted:\n\t@deploy/compose/readable\.sh$", makefile, re.MULTILINE)


def test_an_image_can_be_read_by_its_user_whatever_the_umask_of_the_checkout_was() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    after = dockerfile.partition("COPY protos/gen")[2]
    assert re.match(r"[^\n]*\n(#[^\n]*\n)*RUN chmod -R a\+rX /app ", after)
