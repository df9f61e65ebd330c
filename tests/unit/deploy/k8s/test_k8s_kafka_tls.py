"""Kafka by TLS and password: whoever lists the component and fills the Secret has done all that there is."""

import re
from pathlib import Path

import pytest

from chassis.config import variables
from tests.unit.deploy.k8s.code_facts import speak_to_kafka
from tests.unit.deploy.k8s.manifests import ROOT, Manifests, projected_files, settings_of
from tests.unit.deploy.k8s.network_rules import KAFKA_PORT, allowed
from tests.unit.deploy.k8s.rules import RULES
from tests.unit.deploy.k8s.variants import kafka_by_tls_variant

pytestmark = pytest.mark.kubectl

SECRET = "kafka-client"
PAGE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")
SECTION = PAGE.split("### Kafka by TLS and password\n")[1].split("\n### ")[0]
YAML = re.findall(r"^```yaml\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return kafka_by_tls_variant(tmp_path_factory.mktemp("kafka-tls"))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_holds_with_it(rule: str, found: Manifests) -> None:
    assert list(RULES[rule](found)) == []


def test_exactly_those_who_speak_to_kafka_have_the_secret_and_are_told_so(found: Manifests) -> None:
    keys: dict[str, set[str]] = {}
    told: dict[str, str | None] = {}
    for name, document in found.ours.items():
        for secret, key in projected_files(document).values():
            if secret == SECRET:
                keys.setdefault(name, set()).add(key)
        if variable := settings_of(found, document).get("SAGACITY_KAFKA_SECURITY_PROTOCOL"):
            told[name] = variable
    assert keys == {name: {"ca.crt", "username", "password"} for name in speak_to_kafka()}
    assert told == dict.fromkeys(speak_to_kafka(), "SASL_SSL")


def test_all_that_sasl_by_tls_wants_is_set_and_from_a_file(found: Manifests) -> None:
    for name in speak_to_kafka():
        document = found.deployments[name]
        given, files = settings_of(found, document), projected_files(document)
        for field, key in (("kafka_username", "username"), ("kafka_password", "password")):
            assert files[given[f"{variables(name, field)[-1]}_FILE"]] == (SECRET, key)
        assert files[given["SAGACITY_KAFKA_CA_FILE"]] == (SECRET, "ca.crt")


def test_the_page_names_the_keys_of_the_secret() -> None:
    keys = re.search(r"the Secret `kafka-client`\. Its keys:(.*?)\. All but", SECTION, re.DOTALL)
    assert keys is not None
    assert set(re.findall(r"`([^`]+)`", keys[1])) == {"ca.crt", "username", "password"}


def test_the_patches_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    ports, settings = YAML
    found = kafka_by_tls_variant(tmp_path, settings + ports)
    for name in speak_to_kafka():
        given = settings_of(found, found.deployments[name])
        assert given["SAGACITY_KAFKA_SASL_MECHANISM"] == "SCRAM-SHA-256"
        assert given["SAGACITY_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    reached = {port for who, _, port in allowed(found, "users", "egress") if who == "198.51.100.0/24"}
    assert reached == {9093}
    others = {port for who, _, port in allowed(found, "orders", "egress") if who == "198.51.100.0/24"}
    assert others == {KAFKA_PORT}
