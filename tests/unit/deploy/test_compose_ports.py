"""What publishes a port stays on it by `make up` and `make roll`, which were not told the port this time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.noted_docker import ROOT, Docker

FOLDER = ROOT / "deploy" / "compose"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))[
    "services"
]
SCRIPTS: dict[str, tuple[str, ...]] = {"up.sh": ("start", ""), "roll.sh": ("forward",)}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts as they are in `deploy`, which may have a `.env` of its own."""
    shutil.copytree(FOLDER, tmp_path / "deploy" / "compose", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def port(checkout: Path, script: str, **variables: str) -> str:
    """Return the port that the last `up` was told; empty: none."""
    docker = Docker(checkout / "bin")
    command = [str(checkout / "deploy" / "compose" / script), *SCRIPTS[script], "docker", "compose"]
    done = docker.run(*command, SAGACITY_TAG="there", **variables)
    assert done.returncode == 0, done.stderr
    found = re.search(r" port=(\S*) ", docker.calls(" up ")[-1])
    assert found
    return found[1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_port_is_kept_where_none_is_said(checkout: Path, script: str) -> None:
    assert port(checkout, script, RUNNING="proxy", PORT="9080") == "9080"
    assert port(checkout, script, RUNNING="", PORT="9080") == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_port_that_is_said_is_another_one(checkout: Path, script: str) -> None:
    assert port(checkout, script, RUNNING="proxy", PORT="9080", SAGACITY_PORT="9081") == "9081"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("line", ["SAGACITY_PORT=9081", "export SAGACITY_PORT = 9081"])
def test_a_port_in_the_file_that_compose_reads_is_left_to_compose(
    checkout: Path, script: str, line: str
) -> None:
    (checkout / "deploy" / ".env").write_text(f"SAGACITY_GRAFANA_PORT=1\n{line}\n", "utf-8")
    assert port(checkout, script, RUNNING="proxy", PORT="9080") == ""
    (checkout / "deploy" / ".env").write_text(f"# {line}\nMY_{line}\n", "utf-8")
    assert port(checkout, script, RUNNING="proxy", PORT="9080") == "9080"


def test_the_script_knows_every_port_that_the_file_publishes() -> None:
    kept = re.findall(r"^  keep_port (\w+) ([\w-]+)$", (FOLDER / "ports.sh").read_text("utf-8"), re.MULTILINE)
    published = [
        (re.findall(r"\$\{(\w+):-", line), name)
        for name, service in SERVICES.items()
        for line in service.get("ports", [])
    ]
    assert sorted(([variable], name) for variable, name in kept) == sorted(published)
