from __future__ import annotations

import io
import json
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from deploy.local import children
from deploy.local.children import LOOPBACK, free_port, port_is_free
from deploy.local.errors import LocalDeployError
from deploy.local.logbook import Logbook
from deploy.local.processes import ChildProcess
from deploy.local.programs import (
    IDENTITIES,
    ORCHESTRATOR,
    PAYMENTS,
    PROGRAMS,
    USERS,
    Surroundings,
    environment,
    make_secrets,
    programs,
)
from deploy.local.sample_data import PRODUCTS, SCARCE_SKU
from deploy.local.secret_files import SecretFiles
from deploy.local.welcome import curl_lines
from services.payments.config import MIN_SECRET_CHARACTERS


def surroundings(folder: Path, orchestrators: int = 1) -> Surroundings:
    names = [program.name for program in programs(orchestrators)]
    return Surroundings(
        secrets=SecretFiles(folder),
        ports={name: 50_000 + index for index, name in enumerate(names)},
        metrics_ports={name: 51_000 + index for index, name in enumerate(names)},
        dsn=lambda database: f"dbname={database}",
        kafka_bootstrap_servers="127.0.0.1:9092",
        log_format="json",
    )


def test_a_secret_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    secrets = SecretFiles(tmp_path / "secrets")
    first = secrets.text("password")
    assert first == SecretFiles(tmp_path / "secrets").text("password") != secrets.text("other")
    assert stat.S_IMODE(secrets.path("password").stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets.folder.stat().st_mode) == 0o700


def test_an_empty_secret_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "password").touch()
    with pytest.raises(LocalDeployError, match="is empty"):
        SecretFiles(tmp_path).text("password")


def test_every_identity_has_its_key_in_the_public_file_and_a_second_start_changes_none(
    tmp_path: Path,
) -> None:
    secrets = SecretFiles(tmp_path)
    make_secrets(secrets)
    before = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    make_secrets(secrets)
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == before
    keys = json.loads(before["identity-keys.json"])["keys"]
    assert [key["kid"] for key in keys] == list(IDENTITIES)
    assert all("d" not in key for key in keys)
    assert "PRIVATE KEY" in before["users-signing-key.pem"]


def test_every_process_gets_its_own_database_and_the_addresses_of_the_others(tmp_path: Path) -> None:
    around = surroundings(tmp_path)
    for program in PROGRAMS:
        variables = environment(program, around)
        own = f"SAGACITY_{program.prefix}"
        assert variables[f"{own}_LISTEN"] == f"127.0.0.1:{around.ports[program.name]}"
        assert variables.get(f"{own}_DATABASE_DSN") == (
            f"dbname={program.database}" if program.database else None
        )
        assert [name for name in variables if name.endswith("_DSN")] == (
            [f"{own}_DATABASE_DSN"] * bool(program.database)
        )
        assert variables["SAGACITY_ORDERS_ADDRESS"] == f"127.0.0.1:{around.ports['orders']}"
    assert "SAGACITY_USERS_BOOTSTRAP_ADMIN_PASSWORD_FILE" in environment(USERS, around)


def test_the_secret_of_the_providers_webhooks_is_made_and_given_to_payments_alone(tmp_path: Path) -> None:
    around = surroundings(tmp_path)
    make_secrets(around.secrets)
    name = "SAGACITY_PAYMENTS_SIMULATED_WEBHOOK_SECRET_FILE"
    assert [program.name for program in PROGRAMS if name in environment(program, around)] == ["payments"]
    assert len(Path(environment(PAYMENTS, around)[name]).read_text("utf-8")) >= MIN_SECRET_CHARACTERS


def test_the_address_of_two_orchestrators_names_both(tmp_path: Path) -> None:
    around = surroundings(tmp_path, orchestrators=2)
    first, second = (around.ports[name] for name in ("orchestrator", "orchestrator-2"))
    variables = environment(ORCHESTRATOR, around)
    assert variables["SAGACITY_ORCHESTRATOR_ADDRESS"] == f"ipv4:127.0.0.1:{first},127.0.0.1:{second}"


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.create_server((LOOPBACK, port)):
        assert not port_is_free(port)


def test_the_log_shows_whole_new_lines_with_their_process_and_no_colours_where_there_is_no_terminal(
    tmp_path: Path,
) -> None:
    log = tmp_path / "orders.log"
    log.write_text("of yesterday\n", "utf-8")
    shown = io.StringIO()
    logbook = Logbook({"orders": log}, Console(file=shown, width=20))
    with log.open("a", encoding="utf-8") as file:
        file.write("\x1b[31mred, and longer than the console is wide\x1b[0m [bold]\nhal")
    logbook.catch_up()
    assert shown.getvalue() == "orders | red, and longer than the console is wide [bold]\n"
    with log.open("a", encoding="utf-8") as file:
        file.write("f\n")
    logbook.catch_up()
    assert shown.getvalue().endswith("\norders | half\n")


def test_the_last_words_of_a_child_are_of_its_last_start(tmp_path: Path) -> None:
    process = ChildProcess("timeit", "timeit", tmp_path / "log", tmp_path)
    assert process.last_words() == "it said nothing"
    process.log.write_text("of yesterday\n", "utf-8")
    process.start({"PYTHONHASHSEED": "not a number"})
    process.kill()
    assert "yesterday" not in process.last_words()


def test_the_lines_to_paste_are_shell_and_ask_for_a_product_that_there_is() -> None:
    lines = curl_lines("http://127.0.0.1:8080")
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True)
    assert any(f'"sku":"{product.sku}"' in line for product in PRODUCTS for line in lines)


def test_there_are_twenty_products_and_a_scarce_one() -> None:
    assert len({product.sku for product in PRODUCTS}) == 20
    assert [product.stock for product in PRODUCTS if product.sku == SCARCE_SKU] == [3]


def test_no_free_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(children, "FREE_PORTS", (first, first + 50))
    others = [free_port() for _ in range(5)]
    assert first not in others
    assert len(set(others)) == 5


def test_who_runs_beside_others_takes_ports_of_its_own_part(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = children.FREE_PORTS
    monkeypatch.setenv(children.PART_VARIABLE, "1/2")
    assert all(first <= free_port() < first + 6_000 for _ in range(20))
    monkeypatch.setenv(children.PART_VARIABLE, "2/2")
    assert all(first + 6_000 <= free_port() <= last for _ in range(20))


@pytest.mark.parametrize("said", ["", "2", "0/2", "3/2", "a/b", "1/33", "-1/2"])
def test_a_part_that_is_none_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(children.PART_VARIABLE, said)
    with pytest.raises(LocalDeployError, match="and not like 1/2"):
        free_port()
