"""The Secrets that the manifests name are those that are made, key by key; made once, and never committed."""

import json
from pathlib import Path

import pytest

from deploy.k8s import make_secrets
from deploy.local.programs import IDENTITIES
from deploy.local.secret_files import SecretFiles
from tests.unit.deploy.k8s.manifests import OVERLAYS, Manifests, manifests, pod, projected_files

OF_SOMEBODY_ELSE = ("-database", "-migrations", "kafka", "postgresql")


def wanted(found: Manifests) -> dict[str, set[str]]:
    """Return the keys that pods take from Secrets; of a Secret that is mounted as a whole, none."""
    needed: dict[str, set[str]] = {}
    for document in found.everything_that_runs.values():
        for secret, key in projected_files(document).values():
            needed.setdefault(secret, set()).add(key)
        for volume in pod(document)["volumes"]:
            if "secret" in volume:
                needed.setdefault(volume["secret"]["secretName"], set())
    return needed


def made(folder: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert make_secrets.main(["--folder", str(folder), *options]) == 0
    listed = json.loads(capsys.readouterr().out)
    return {item["metadata"]["name"]: item["stringData"] for item in listed["items"]}


@pytest.mark.kubectl
def test_a_laptop_gets_exactly_the_secrets_that_its_pods_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = made(tmp_path / "s", capsys=capsys)
    needed = wanted(manifests("local"))
    assert set(secrets) == set(needed)
    for name, keys in needed.items():
        assert not keys or set(secrets[name]) == keys, name


@pytest.mark.kubectl
def test_keys_only_leaves_out_the_addresses_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = made(tmp_path / "s", "--keys-only", capsys=capsys)
    needed = set(wanted(manifests("production")))
    assert set(secrets) == {name for name in needed if not name.endswith(OF_SOMEBODY_ELSE)}


def test_they_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made(tmp_path / "s", capsys=capsys)
    assert made(tmp_path / "s", capsys=capsys) == first
    assert made(tmp_path / "another", capsys=capsys) != first


def test_they_go_to_the_namespace_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_secrets.main(["--folder", str(tmp_path / "s"), "--namespace", "shop"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {item["metadata"]["namespace"] for item in listed["items"]} == {"shop"}


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert make_secrets.main(["--folder", str(tmp_path / "file")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_keys_of_all_who_call_are_known_to_all(tmp_path: Path) -> None:
    contents = make_secrets.keys(SecretFiles(tmp_path))
    known = {key["kid"] for key in json.loads(contents["identity-keys"]["identity-keys.json"])["keys"]}
    assert known == set(IDENTITIES)


@pytest.mark.kubectl
def test_production_names_secrets_and_has_none() -> None:
    for overlay in OVERLAYS:
        assert manifests(overlay).of("Secret") == []
