from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr

from chassis.config import ProcessSettings, SettingsError


class TeaSettings(ProcessSettings):
    process: ClassVar[str] = "tea"
    cups: int = Field(default=1, ge=1)
    pin: SecretStr = Field(default=SecretStr(""), max_length=4)


class BrewSettings(ProcessSettings):
    process: ClassVar[str] = "brew"
    temperature: int


def test_a_process_reads_its_own_variables_and_the_shared_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGACITY_TEA_CUPS", "3")
    monkeypatch.setenv("SAGACITY_LOG_FORMAT", "json")
    settings = TeaSettings.read()
    assert (settings.cups, settings.log_format) == (3, "json")


def test_its_own_variable_goes_before_a_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGACITY_USERS_ADDRESS", "far:1")
    monkeypatch.setenv("SAGACITY_TEA_USERS_ADDRESS", "near:2")
    assert TeaSettings.read().users_address == "near:2"


def test_variables_of_other_programs_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPS", "9")
    monkeypatch.setenv("SAGACITY_CUPS", "9")
    assert TeaSettings.read().cups == 1


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGACITY_LOG_FORMAT", "")
    assert TeaSettings.read().log_format == "console"


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("1234\n")
    monkeypatch.setenv("SAGACITY_TEA_PIN_FILE", str(tmp_path / "pin"))
    assert TeaSettings.read().required("pin") == "1234"


def test_a_secret_file_that_is_missing_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGACITY_TEA_PIN_FILE", "/nowhere/pin")
    with pytest.raises(SettingsError, match="SAGACITY_TEA_PIN_FILE"):
        TeaSettings.read()


def test_a_wrong_value_is_named_by_its_variable_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGACITY_TEA_PIN", "hunter2-too-long")
    monkeypatch.setenv("SAGACITY_TEA_CUPS", "many-cups")
    with pytest.raises(SettingsError) as caught:
        TeaSettings.read()
    text = str(caught.value)
    assert "SAGACITY_TEA_PIN" in text
    assert "SAGACITY_TEA_CUPS" in text
    assert "hunter2" not in text
    assert "many-cups" not in text
    assert caught.value.__cause__ is None


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="SAGACITY_BREW_TEMPERATURE"):
        BrewSettings.read()


def test_what_a_process_cannot_do_without_is_named() -> None:
    with pytest.raises(SettingsError, match="SAGACITY_TEA_DATABASE_DSN is not set"):
        TeaSettings.read().required("database_dsn")


@pytest.mark.parametrize("listen", ["", "8080", "host:", "host:port"])
def test_an_address_needs_host_and_port(monkeypatch: pytest.MonkeyPatch, listen: str) -> None:
    with pytest.raises(ValueError, match="listen"):
        TeaSettings(listen=listen)


def test_a_secret_is_not_in_the_settings_text() -> None:
    assert "1234" not in repr(TeaSettings(pin=SecretStr("1234")))
