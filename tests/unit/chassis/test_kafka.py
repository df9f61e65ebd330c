"""How Kafka is spoken to: which settings fit together, and what a client is made with."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from chassis.config import ProcessSettings, SettingsError
from chassis.kafka import KafkaCluster
from tests.certificates import Authority

SERVERS = "kafka.example:9093"
PASSWORD = "hunter2-and-more"
LOGIN = {"USERNAME": "sagacity", "PASSWORD": PASSWORD}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def files(authority: Authority) -> dict[str, str]:
    """Return the variables of a certificate, its key and its authority."""
    pair = authority.issue("client")
    return {
        "CA_FILE": str(authority.file),
        "CERTIFICATE_FILE": str(pair.certificate),
        "KEY_FILE": str(pair.key),
    }


def read(monkeypatch: pytest.MonkeyPatch, protocol: str, **variables: str) -> KafkaCluster:
    named = {"BOOTSTRAP_SERVERS": SERVERS, "SECURITY_PROTOCOL": protocol, **variables}
    for name, value in named.items():
        monkeypatch.setenv(f"SAGACITY_KAFKA_{name}", value)
    return ProcessSettings.read().kafka


def refusal(monkeypatch: pytest.MonkeyPatch, protocol: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(monkeypatch, protocol, **variables)
    assert caught.value.__cause__ is None
    said = str(caught.value)
    assert said.count("SAGACITY_") == 1
    assert not any(value in said for value in variables.values())
    assert PASSWORD not in said
    return said.partition(" ")[0].removesuffix(":").removeprefix("SAGACITY_KAFKA_")


def test_in_the_clear_a_client_is_told_the_servers_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = read(monkeypatch, "PLAINTEXT")
    assert kafka == KafkaCluster(SERVERS)
    assert kafka.client_options() == {"bootstrap_servers": SERVERS}


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
@pytest.mark.parametrize("with_files", [False, True])
def test_tls_is_of_a_recent_version_and_verifies_certificates_and_names(
    *, protocol: str, with_files: bool, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    login = LOGIN if protocol == "SASL_SSL" else {}
    options = read(monkeypatch, protocol, **login, **(files if with_files else {})).client_options()
    context = options["ssl_context"]
    assert options["security_protocol"] == protocol
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    if with_files:
        (trusted,) = context.get_ca_certs()
        assert trusted["subject"] == ((("commonName", "authority"),),)


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_with_sasl_a_client_logs_in(
    protocol: str, mechanism: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"SASL_MECHANISM": mechanism} if mechanism else {}
    options = read(monkeypatch, protocol, **LOGIN, **chosen).client_options()
    assert ("ssl_context" in options) == (protocol == "SASL_SSL")
    options.pop("ssl_context", None)
    assert options == {
        "bootstrap_servers": SERVERS,
        "security_protocol": protocol,
        "sasl_mechanism": mechanism or "SCRAM-SHA-512",
        "sasl_plain_username": "sagacity",
        "sasl_plain_password": PASSWORD,
    }


def test_without_sasl_the_mechanism_is_of_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sasl_mechanism" not in read(monkeypatch, "SSL", SASL_MECHANISM="PLAIN").client_options()


def test_the_password_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    kafka = read(monkeypatch, "SASL_SSL", USERNAME="sagacity", PASSWORD_FILE=str(tmp_path / "password"))
    assert kafka.client_options()["sasl_plain_password"] == PASSWORD


@pytest.mark.parametrize(
    ("protocol", "variables", "named"),
    [
        ("SASL_SSL", {}, "USERNAME"),
        ("SASL_SSL", {"USERNAME": "sagacity"}, "PASSWORD"),
        ("SASL_PLAINTEXT", {"PASSWORD": PASSWORD}, "USERNAME"),
        ("PLAINTEXT", {"USERNAME": "sagacity"}, "USERNAME"),
        ("SSL", {"PASSWORD": PASSWORD}, "PASSWORD"),
        ("SSL", LOGIN, "USERNAME"),
        ("TLS", {}, "SECURITY_PROTOCOL"),
        ("SASL_SSL", {**LOGIN, "SASL_MECHANISM": "GSSAPI"}, "SASL_MECHANISM"),
    ],
)
def test_a_login_that_does_not_fit_to_the_protocol_is_named(
    protocol: str, variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(monkeypatch, protocol, **variables) == named


@pytest.mark.parametrize("name", ["CA_FILE", "CERTIFICATE_FILE", "KEY_FILE"])
@pytest.mark.parametrize(("protocol", "login"), [("PLAINTEXT", {}), ("SASL_PLAINTEXT", LOGIN)])
def test_certificates_without_tls_are_refused(
    name: str, protocol: str, login: dict[str, str], files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(monkeypatch, protocol, **login, **{name: files[name]}) == name


@pytest.mark.parametrize(
    ("given", "named"), [("CERTIFICATE_FILE", "KEY_FILE"), ("KEY_FILE", "CERTIFICATE_FILE")]
)
def test_a_certificate_and_its_key_come_together(
    given: str, named: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(monkeypatch, "SSL", **{given: files[given]}) == named


@pytest.mark.parametrize("name", ["CA_FILE", "CERTIFICATE_FILE", "KEY_FILE"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM at all", b"-----BEGIN CERTIFICATE-----\n!\n"])
def test_a_file_that_cannot_be_used_is_named(
    name: str,
    content: bytes | None,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = tmp_path / "wrong"
    if content is not None:
        wrong.write_bytes(content)
    assert refusal(monkeypatch, "SSL", **(files | {name: str(wrong)})) == name


def test_a_folder_is_no_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert refusal(monkeypatch, "SSL", CA_FILE=str(tmp_path)) == "CA_FILE"


def test_a_key_that_does_not_fit_or_wants_a_passphrase_is_named(
    authority: Authority, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    another = authority.issue("another")
    assert refusal(monkeypatch, "SSL", **(files | {"KEY_FILE": str(another.key)})) == "KEY_FILE"
    locked = authority.issue("locked", passphrase=b"sesame")
    named = {"CERTIFICATE_FILE": str(locked.certificate), "KEY_FILE": str(locked.key)}
    assert refusal(monkeypatch, "SSL", **(files | named)) == "KEY_FILE"


def test_what_names_no_certificate_is_refused_when_a_client_is_made_too(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = read(monkeypatch, "SSL", CA_FILE=str(authority.file))
    authority.file.write_bytes(b"")
    # As a broker that is away, which whoever makes clients is prepared for.
    with pytest.raises(OSError, match="ca_file: holds no certificate in PEM"):
        kafka.client_options()


def test_without_servers_files_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = read(monkeypatch, "SSL", BOOTSTRAP_SERVERS="", CA_FILE="/nowhere")
    assert not kafka
    assert KafkaCluster(SERVERS)


def test_a_process_may_log_in_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class TeaSettings(ProcessSettings):
        process = "tea"

    monkeypatch.setenv("SAGACITY_TEA_KAFKA_USERNAME", "tea")
    read(monkeypatch, "SASL_SSL", **LOGIN)
    assert TeaSettings.read().kafka.username == "tea"


@pytest.mark.parametrize("secret", ["with\0zero"])
def test_a_nul_is_refused_for_it_would_end_the_name(secret: str) -> None:
    settings: dict[str, Any] = {"kafka_security_protocol": "SASL_SSL", "kafka_username": "sagacity"}
    with pytest.raises(SettingsError, match="SAGACITY_KAFKA_PASSWORD has a NUL in it"):
        _ = ProcessSettings(kafka_password=SecretStr(secret), **settings).kafka


def test_no_text_of_it_has_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = read(monkeypatch, "SASL_SSL", **LOGIN)
    assert "sagacity" in repr(kafka)
    assert PASSWORD not in f"{kafka!r} {kafka} {ProcessSettings.read()!r}"
