"""What is rendered is valid, strictly, for the three most recent versions of Kubernetes that have schemas."""

import functools
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate import utils
from packaging.version import Version

from tests.unit.deploy.k8s.custom_resources import SCHEMAS
from tests.unit.deploy.k8s.manifests import OVERLAYS, Document, Manifests, manifests
from tests.unit.deploy.k8s.variants import ingress_variant, kafka_by_tls_variant

pytestmark = pytest.mark.kubectl

VERSIONS = sorted(set(utils.all_versions()), key=Version)[-3:]


@pytest.fixture(autouse=True)
def _schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "schema_contents", _read)


_read = functools.cache(utils.schema_contents)


def invalid(documents: list[Document], version: str) -> Iterator[str]:
    for document in documents:
        place = f"{document['kind']}/{document['metadata']['name']}"
        try:
            if document["kind"] in SCHEMAS:
                jsonschema.validate(document, SCHEMAS[document["kind"]])
            else:
                assert utils.validate(document, version, strict=True) == utils.major_minor(version)
        except jsonschema.ValidationError as error:
            yield f"{place}: {'.'.join(map(str, error.path))}: {error.message}"


def test_three_versions_are_looked_at() -> None:
    assert len(VERSIONS) == 3
    assert VERSIONS[-1].startswith(kubernetes_validate.latest_version().rpartition(".")[0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid(overlay: str, version: str) -> None:
    assert list(invalid(manifests(overlay).all, version)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_variant_with_kafka_by_tls_is_valid(version: str, tmp_path: Path) -> None:
    assert list(invalid(kafka_by_tls_variant(tmp_path).all, version)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_variant_with_an_ingress_is_valid(version: str, tmp_path: Path) -> None:
    assert list(invalid(ingress_variant(tmp_path).all, version)) == []


def test_only_custom_resources_have_schemas_of_our_own() -> None:
    kinds = {document["kind"] for overlay in OVERLAYS for document in manifests(overlay).all}
    unknown = set()
    for kind in kinds:
        document = next(one for overlay in OVERLAYS for one in manifests(overlay).of(kind))
        try:
            utils.validate(document, VERSIONS[-1], strict=True)
        except utils.SchemaNotFoundError:
            unknown.add(kind)
    assert unknown == set(SCHEMAS)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_and_a_wrong_type_are_found(version: str) -> None:
    found = manifests("production")
    users = found.deployments["users"]
    users["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 60
    assert len(list(invalid(found.all, version))) == 1
    found = manifests("production")
    found.deployments["users"]["spec"]["minReadySeconds"] = "5"
    assert len(list(invalid(found.all, version))) == 1


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_misspelt_field_of_a_custom_resource_is_found(kind: str) -> None:
    found: Manifests = manifests("production")
    document = found.of(kind)[0]
    document["spec"]["selectr"] = {}
    assert len(list(invalid(found.all, VERSIONS[-1]))) == 1
