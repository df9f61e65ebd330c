"""docs/scaling.md and docs/cli.md say of capacity what the code and the measured costs say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from chassis.postgres import _connection_settings
from cli.__main__ import run
from cli.capacity_costs import LOAD_OF_A_CORE_MAX, measured
from cli.capacity_model import HEARD_SECONDS, POOL_MAX
from cli.capacity_workload import BOUNDS, Workload
from orchestrator.__main__ import PATIENCE_SHARE
from orchestrator.config import OrchestratorSettings
from tests.bench import scaling_page
from tests.conftest import NewDatabase

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "scaling.md").read_text("utf-8")
TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_ALTER = re.compile(r"^ALTER ROLE orders_service IN DATABASE orders SET (\w+) = '([^']+)';$", re.MULTILINE)


def wanted_settings(patience_seconds: float | None = None) -> dict[str, str]:
    options = _connection_settings("somebody", patience_seconds)["options"]
    return {
        name: value.replace("\\ ", " ") for name, value in re.findall(r"-c (\w+)=((?:[^\\ ]|\\ )+)", options)
    }


def test_the_page_has_the_figures_of_the_committed_costs() -> None:
    assert scaling_page.rendered(PAGE, measured()) == PAGE, "python -m tests.bench.scaling_page"
    assert len(re.findall(r"<!-- figures: \w+ -->", PAGE)) == len(scaling_page.BLOCKS)
    assert measured().date in PAGE


def test_no_sentence_beside_the_figures_quotes_one() -> None:
    by_hand = re.sub(r"<!-- figures: \w+ -->.*?<!-- /figures -->", "", PAGE, flags=re.DOTALL)
    assert re.findall(r"[\d.,]+ (?:ms|milliseconds|B|MiB|events/s|of the rate|% of)\b", by_hand) == []


def test_the_page_says_so_where_the_machine_was_busy() -> None:
    costs = replace(measured(), was_free=False, load=9.5)
    assert "busy with other things" in scaling_page.rendered(PAGE, costs)
    assert "load was 9.5" in scaling_page.rendered(PAGE, costs)
    free = replace(costs, was_free=True, load=0.25)
    assert "busy with other things" not in scaling_page.rendered(PAGE, free)


def test_the_bound_of_the_load_is_that_of_the_command() -> None:
    assert f"load is above {LOAD_OF_A_CORE_MAX:g} for each" in " ".join(PAGE.split())


def test_the_relays_figure_is_that_of_the_readme() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    assert f"| events, one relay | {measured().relay_events_per_second:,.0f} a second |" in readme


def test_the_page_has_the_cost_of_what_every_gateway_reads() -> None:
    assert f" {HEARD_SECONDS * 1e6:g} µs, measured by" in PAGE


def test_the_connections_of_the_page_are_those_of_the_calculator() -> None:
    of_one = {name: POOL_MAX[name] for name in ("users", "inventory", "orders")}
    told = re.search(r"A process has (\d+): .* payments (\d+), .* the orchestrator (\d+)\.", PAGE)
    assert told
    assert {int(told[1])} == set(of_one.values())
    assert (int(told[2]), int(told[3])) == (POOL_MAX["payments"], POOL_MAX["orchestrator"])


def test_the_example_of_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["capacity", "--orders-per-second", "100"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    example = PAGE.split("<!-- figures: example -->\n```text\n")[1].split("```")[0]
    shown = [line.split() for line in example.splitlines() if line.strip(" ─")]
    assert [word for line in shown for word in line] == [word for line in said for word in line]


@pytest.mark.integration
def test_the_roles_of_the_page_have_the_settings_of_our_connections(
    new_database: NewDatabase, postgres_admin_dsn: str
) -> None:
    told = dict(_ALTER.findall(PAGE))
    assert set(told) == set(wanted_settings())
    role = sql.Identifier("orders_service_of_the_page")
    with psycopg.connect(new_database(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        try:
            for name, value in told.items():
                admin.execute(
                    sql.SQL("ALTER ROLE {} SET {} = {}").format(
                        role, sql.Identifier(name), sql.Literal(value)
                    )
                )
            for name, value in wanted_settings().items():
                admin.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            row = admin.execute(
                "SELECT setconfig FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole"
                " WHERE rolname = 'orders_service_of_the_page'"
            ).fetchone()
            assert row is not None
            for name, value in (each.split("=", 1) for each in row[0]):
                ours = admin.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
                admin.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
                theirs = admin.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
                assert ours == theirs, name
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_page_has_the_time_outs_of_the_sagas_database() -> None:
    lease = OrchestratorSettings.model_fields["lease_seconds"].default
    settings = wanted_settings(lease * PATIENCE_SHARE)
    (told,) = re.findall(r"For `sagas` the three time-outs are `(\d+)ms`", PAGE)
    assert {settings[name] for name in TIMEOUTS} == {told}


def test_the_page_of_the_command_has_every_option_of_capacity_with_its_default() -> None:
    section = (DOCS / "cli.md").read_text("utf-8").split("## Capacity")[1].split("\n## ")[0]
    told = {
        name: float(default)
        for name, default in re.findall(r"^\| `--([a-z-]+)` \| ([\d.]+) \|", section, re.MULTILINE)
    }
    defaults = {
        name.replace("_", "-"): getattr(Workload, name) for name in BOUNDS if name != "orders_per_second"
    }
    assert told == defaults
