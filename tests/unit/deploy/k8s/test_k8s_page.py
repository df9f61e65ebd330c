"""The page on Kubernetes names what is there: folders, Secrets, keys, probes, seconds."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from chassis.grpc_client import DNS_INTERVAL_SECONDS
from chassis.grpc_server import MAX_CONNECTION_AGE_SECONDS
from chassis.lifecycle import DRAIN_ALL_SECONDS
from cli.capacity_model import CONSUMERS, KAFKA_COPIES
from cli.connection import CONTEXTS, ORCHESTRATOR
from deploy.local.kafka import PARTITIONS
from tests.unit.deploy.k8s.manifests import (
    OVERLAYS,
    ROOT,
    Document,
    annotations_of,
    app,
    manifests,
    matches,
    pod,
    projected_files,
    settings_maps,
    sync_wave,
)
from tests.unit.deploy.k8s.workload_rules import STAGES

PAGE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")
UPGRADE = (ROOT / "docs" / "how-to" / "upgrade.md").read_text("utf-8")
COMPONENT = "app.kubernetes.io/component"
SCRIPTS = re.findall(r"^```sh\n(\(\n.*?^\)\n)```", PAGE, re.MULTILINE | re.DOTALL)
# One for each overlay, and the way back.
BLOCKS = [*zip(OVERLAYS, SCRIPTS[:-1], strict=True)]
WAY_BACK = SCRIPTS[-1]
SHELL_SECONDS = 60
# Says what it was told, and does what kubectl does at the failure that is planted.
STAND_IN = """#!/bin/sh
echo "$*" >> "$TOLD"
[ "$(wc -l < "$TOLD")" -ne "$FAILS_AT" ]
"""


def run(script: str, folder: Path, fails_at: int) -> tuple[int, list[str]]:
    """Run a block of the page with a kubectl whose call `fails_at` fails; return what it was told."""
    told = folder / f"told-{fails_at}"
    stand_in = folder / "kubectl"
    stand_in.write_text(STAND_IN, "utf-8")
    stand_in.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.defpath}", "TOLD": str(told), "FAILS_AT": str(fails_at)}
    done = subprocess.run(
        ["sh", "-c", script], env=environment, cwd=folder, timeout=SHELL_SECONDS, check=False
    )
    return done.returncode, told.read_text("utf-8").splitlines()


def chosen(documents: list[Document], selector: str) -> list[Document]:
    """Return what a label selector of one clause, as kubectl takes it, chooses."""
    among = re.fullmatch(rf"{COMPONENT} (notin) \(([\w,]+)\)|{COMPONENT}(=)(\w+)", selector)
    assert among, selector
    operator, values = ("NotIn", among[2]) if among[1] else ("In", among[4])
    expression = {"key": COMPONENT, "operator": operator, "values": values.split(",")}
    return [
        one
        for one in documents
        if matches({"matchExpressions": [expression]}, one["metadata"].get("labels", {}))
    ]


@pytest.mark.kubectl
@pytest.mark.parametrize(("overlay", "script"), BLOCKS, ids=OVERLAYS)
def test_stages_of_the_page_apply_everything_once_who_is_called_before_who_calls(
    overlay: str, script: str, tmp_path: Path
) -> None:
    _, told = run(script, tmp_path, fails_at=0)
    applies = [re.fullmatch(rf"apply -k deploy/k8s/overlays/{overlay} -l (.*)", one) for one in told]
    selectors = [one[1] for one in applies if one]
    found = manifests(overlay)
    stages = [chosen(found.rollout, one) for one in selectors]
    names = [{one["metadata"]["name"] for one in stage if one["kind"] == "Deployment"} for stage in stages]
    assert names == [set(), {"users", "inventory", "payments", "orders"}, {"orchestrator"}, {"gateway"}]
    applied = sorted((one["kind"], one["metadata"]["name"]) for stage in stages for one in stage)
    assert applied == sorted((one["kind"], one["metadata"]["name"]) for one in found.rollout)
    namespace = found.deployments["users"]["metadata"]["namespace"]
    for stage in STAGES:
        position = told.index(f"apply -k deploy/k8s/overlays/{overlay} -l {COMPONENT}={stage}")
        after = told[position + 1]
        assert after.startswith(f"-n {namespace} rollout status deployment -l {COMPONENT}={stage} --timeout=")


@pytest.mark.parametrize(("overlay", "script"), BLOCKS, ids=OVERLAYS)
def test_a_command_of_the_page_that_fails_is_the_last_one(overlay: str, script: str, tmp_path: Path) -> None:
    _, told = run(script, tmp_path, fails_at=0)
    assert any(f"overlays/{overlay}/migrations" in one for one in told)
    for number in range(1, len(told) + 1):
        code, before = run(script, tmp_path, fails_at=number)
        assert code != 0
        assert before == told[:number]


@pytest.mark.kubectl
@pytest.mark.parametrize(("overlay", "script"), BLOCKS, ids=OVERLAYS)
def test_a_migration_is_waited_for_until_it_has_ended_either_way(
    overlay: str, script: str, tmp_path: Path
) -> None:
    _, told = run(script, tmp_path, fails_at=0)
    (ended, complete) = [one for one in told if " wait job " in one]
    assert "--for=jsonpath={.status.conditions}" in ended, "complete or failed: a Job has none before"
    assert "--for=condition=complete" in complete
    (seconds,) = re.findall(r"--timeout=(\d+)s", ended)
    deadlines = {job["spec"]["activeDeadlineSeconds"] for job in manifests(overlay).jobs.values()}
    assert all(int(seconds) > deadline for deadline in deadlines)
    (first_stage,) = [
        number for number, one in enumerate(told) if one.endswith(f"{overlay} -l {COMPONENT}={STAGES[0]}")
    ]
    assert told.index(complete) < first_stage


@pytest.mark.kubectl
def test_the_way_back_is_the_stages_the_other_way_round_and_no_migration(tmp_path: Path) -> None:
    code, told = run(WAY_BACK, tmp_path, fails_at=0)
    assert code == 0
    assert not any("migrations" in one for one in told)
    found = manifests("production")
    applies = [re.fullmatch(r"apply -k deploy/k8s/overlays/production -l (.*)", one) for one in told]
    stages = [chosen(found.rollout, one[1]) for one in applies if one]
    names = [{one["metadata"]["name"] for one in stage if one["kind"] == "Deployment"} for stage in stages]
    assert names == [
        set(),
        {"gateway"},
        {"orchestrator"},
        {"users", "inventory", "payments", "orders"},
        set(),
    ]
    there: set[str] = set()
    for stage in stages:
        there |= {one["metadata"]["name"] for one in stage if one["kind"] == "ConfigMap"}
        for one in stage:
            if one["kind"] == "Deployment":
                assert settings_maps(one) <= there, "a pod would wait for its settings"
    applied = {(one["kind"], one["metadata"]["name"]) for stage in stages for one in stage}
    assert applied == {(one["kind"], one["metadata"]["name"]) for one in found.rollout}


def test_the_way_back_ends_at_the_first_failure(tmp_path: Path) -> None:
    _, told = run(WAY_BACK, tmp_path, fails_at=0)
    for number in range(1, len(told) + 1):
        code, before = run(WAY_BACK, tmp_path, fails_at=number)
        assert (code != 0, before) == (True, told[:number])


def test_kafka_is_asked_not_to_lose_what_the_relay_has_deleted() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = [one for one in blocks if "--create" in one]
    (topics,) = re.findall(r"for topic in (.*); do", block)
    assert set(topics.split()) == set(CONSUMERS)
    copies, partitions = (
        int(re.findall(rf"--{name} (\d+)", block)[0]) for name in ("replication-factor", "partitions")
    )
    settings = dict(re.findall(r"--config ([\w.]+)=(\S+)", block))
    assert copies == KAFKA_COPIES
    assert partitions >= PARTITIONS
    assert 1 < int(settings["min.insync.replicas"]) < copies
    assert settings["unclean.leader.election.enable"] == "false"
    assert "auto.create.topics.enable=false" in PAGE


def test_the_command_is_told_of_every_process_that_it_asks() -> None:
    (forwards,) = re.findall(r"for forward in (.*); do", PAGE)
    peers = {ORCHESTRATOR.name: ORCHESTRATOR, **CONTEXTS}
    assert dict(one.split(":") for one in forwards.split()) == {
        name: peer.default_address.rpartition(":")[2] for name, peer in peers.items()
    }


def test_the_page_on_upgrades_has_the_stages_of_production() -> None:
    loop = re.compile(r"  for component in .*?\n  done\n", re.DOTALL)
    (of_production,) = loop.findall(dict(BLOCKS)["production"])
    assert of_production in UPGRADE


@pytest.mark.kubectl
def test_the_waves_of_argo_cd_are_the_stages_of_the_page(tmp_path: Path) -> None:
    _, told = run(dict(BLOCKS)["production"], tmp_path, fails_at=0)
    stages = [one.rpartition("=")[2] for one in told if re.search(rf"apply -k .* -l {COMPONENT}=", one)]
    found = manifests("production")
    by_wave = sorted(found.deployments.values(), key=sync_wave)
    assert [*dict.fromkeys(one["metadata"]["labels"][COMPONENT] for one in by_wave)] == stages
    for job in found.jobs.values():
        assert annotations_of(job)["argocd.argoproj.io/hook"] == "PreSync"


def test_every_path_on_the_page_is_there() -> None:
    paths = set(re.findall(r"deploy/k8s[\w./-]*", PAGE))
    assert len(paths) > 5
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_every_module_that_the_page_runs_is_there() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", PAGE))
    assert modules == {"deploy.k8s.make_secrets"}
    commands = re.findall(r"make_secrets[^|\n]*\| (kubectl apply[^\n]*)", PAGE)
    assert {*commands} == {"kubectl apply --server-side -f -"}, "else they are in an annotation, too"
    assert (ROOT / "deploy" / "k8s" / "make_secrets.py").is_file()


@pytest.mark.kubectl
def test_the_table_of_secrets_is_what_production_takes() -> None:
    listed: dict[str, set[str]] = {}
    for names, keys in re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| ([^|]*) \| [^|]* \|$", PAGE, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            listed[name] = set(re.findall(r"`([^`]+)`", keys))
    needed: dict[str, set[str]] = {}
    for document in manifests("production").ours.values():
        for secret, key in projected_files(document).values():
            needed.setdefault(secret, set()).add(key)
    assert listed == needed


@pytest.mark.kubectl
def test_the_seconds_of_a_rollout_are_those_of_manifests_and_code() -> None:
    for document in manifests("production").deployments.values():
        pause = app(document)["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = pod(document)["terminationGracePeriodSeconds"]
        ready = document["spec"]["minReadySeconds"]
        assert f"An old one goes {ready} s later" in PAGE
        assert f"replaces one pod after the other, {ready} s [after the new one is" in UPGRADE
        assert f"({pause} s)" in PAGE
        assert f"({DRAIN_ALL_SECONDS:.0f} s at most)" in PAGE
        assert f"after {grace} s it is killed" in " ".join(PAGE.split())
    assert MAX_CONNECTION_AGE_SECONDS == 60, "the page says after a minute"
    assert DNS_INTERVAL_SECONDS == 1, "both pages say once a second"
