"""docs/cli.md and its how-to: commands are run, what they print is compared, tables name what there is."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import pytest

from chassis.config import environment
from chassis.errors import Fault, FaultKind
from cli.__main__ import run
from cli.failures import ExitCode
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1.orders_pb2 import QuoteRefundResponse
from tests.integration.cli.conftest import ROOT, Deployment

PAGE = ROOT / "docs" / "cli.md"
REPAIR_PAGE = ROOT / "docs" / "how-to" / "repair-events.md"
NEXT = "--- next ---"
SECONDS = 60
NO = Fault(FaultKind.FAILED_PRECONDITION, "RESERVATION_NOT_COMMITTED", "the units are not sold")
QUOTE = QuoteRefundResponse(
    payment_id="018f7e9c-5d1a-7c3e-9b1f-000000000001",
    reservation_id="018f7e9c-5d1a-7c3e-9b1f-000000000002",
    amount=Money(currency_code="EUR", minor_units=2_490),
)

_TESTED = re.compile(r"<!-- tested -->\n```bash\n(.*?)```\n```text\n(.*?)```\n", re.DOTALL)
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"), "<moment>"),
    (re.compile(r"\d\d:\d\d:\d\d\.\d{3}"), "<clock>"),
    (re.compile(r"\b(?:\d+ ms|\d+\.\d s|\d+m \d\ds|\d+h \d\dm)"), "<time>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<definition>"),
    (re.compile(r"\b\d:\d+\b"), "<place>"),
    (re.compile(r"order-history\.\d+"), "order-history.<generation>"),
    (re.compile(r"─+"), "-"),
    # Columns are as wide as what volatile things they hold.
    (re.compile(r" +"), " "),
)


def steady(output: str) -> list[str]:
    for pattern, placeholder in _VOLATILE:
        output = pattern.sub(placeholder, output)
    return [line.strip() for line in output.splitlines() if line.strip()]


async def compare(page: str, variables: dict[str, str]) -> int:
    """Run the blocks of a page in order, compare what they print with what it shows, and count them."""
    blocks = _TESTED.findall(page)
    shell = f'sagacity() {{ "{sys.executable}" -m cli "$@"; }}\n'
    script = shell + f"echo '{NEXT}'\n".join(commands for commands, _ in blocks)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-uo",
        "pipefail",
        "-c",
        script,
        cwd=ROOT,
        env={**environment(), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    answers = said.decode().split(f"{NEXT}\n")
    assert [steady(answer) for answer in answers] == [steady(recorded) for _, recorded in blocks], (
        said.decode()
    )
    return len(blocks)


@pytest.mark.integration
async def test_the_commands_of_the_page_print_what_it_shows(stage: Any) -> None:
    for saga in (await stage.sagas("list", "--state", "parked", "--json")).json["sagas"]:
        await stage.sagas("retry", saga["id"], "--reason", "from another test")
        await stage.until(saga["id"], "completed")
    stage.participants.faults["Restock"] = NO
    stage.participants.replies["QuoteRefund"] = QUOTE.SerializeToString()
    await stage.until((await stage.refund()).saga_id, "parked")
    assert await compare(PAGE.read_text("utf-8"), stage.variables) >= 6


@pytest.mark.integration
async def test_the_commands_of_the_page_on_dead_letters_print_what_it_shows(
    clean_deployment: Deployment,
) -> None:
    await clean_deployment.poison("somebody")
    await clean_deployment.caught_up()
    assert await compare(REPAIR_PAGE.read_text("utf-8"), clean_deployment.variables) >= 7


@pytest.mark.parametrize("group", ["sagas", "events"])
def test_the_page_names_every_command(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = commands_of(group, capsys=capsys)
    table = PAGE.read_text("utf-8").split(f"| `sagacity {group}` | |")[1].split("\n\n")[0]
    listed = {
        name
        for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`([a-z -]+)`", cell)
    }
    assert listed == commands


def commands_of(*group: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The commands of a group, with those of the groups in it by both their words."""
    run([*group, "--help"])
    section = capsys.readouterr().out.split("Commands:")[1]
    found = set(re.findall(r"^  ([a-z-]+) ", section, re.MULTILINE))
    if "dead-letters" in found:
        found.remove("dead-letters")
        inner = commands_of(*group, "dead-letters", capsys=capsys)
        found |= {f"dead-letters {name}" for name in inner}
    return found


def test_the_page_names_every_exit_code() -> None:
    codes = re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert codes == [str(int(code)) for code in ExitCode]
