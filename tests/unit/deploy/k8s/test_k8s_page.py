"""The page on Kubernetes names what is there: folders, Secrets, keys, probes, seconds."""

import re

import pytest

from chassis.grpc_server import MAX_CONNECTION_AGE_SECONDS
from chassis.lifecycle import DRAIN_ALL_SECONDS
from tests.unit.deploy.k8s.manifests import ROOT, app, manifests, pod, projected_files

PAGE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")


def test_every_path_on_the_page_is_there() -> None:
    paths = set(re.findall(r"deploy/k8s[\w./-]*", PAGE))
    assert len(paths) > 5
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_every_module_that_the_page_runs_is_there() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", PAGE))
    assert modules == {"deploy.k8s.make_secrets"}
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
        assert f"({pause} s)" in PAGE
        assert f"({DRAIN_ALL_SECONDS:.0f} s at most)" in PAGE
        assert f"after {grace} s it is killed" in " ".join(PAGE.split())
    assert MAX_CONNECTION_AGE_SECONDS == 60, "the page says after a minute"
