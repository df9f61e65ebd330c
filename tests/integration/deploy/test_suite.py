from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from deploy.local.demo import play
from deploy.local.suite import Suite
from deploy.local.welcome import curl_lines

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("suite"), fsync=False)
    await suite.start()
    try:
        yield suite
    finally:
        await suite.abort()


async def test_the_lines_to_paste_end_in_a_confirmed_order(suite: Suite) -> None:
    script = "\n".join(curl_lines(suite.gateway_url))
    shell = await asyncio.create_subprocess_exec("bash", "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(shell.communicate(), timeout=60)
    order = said.decode("utf-8").rpartition('{"id":')[2]
    assert json.loads('{"id":' + order)["state"] == "confirmed"


async def test_the_demo_shows_one_order_of_each_kind_and_gives_back_the_declined_ones_stock(
    suite: Suite,
) -> None:
    scenes = await play(suite.gateway_url, suite.password("admin"), suite.password("customer"))
    assert [scene["order"]["state"] for scene in scenes] == ["confirmed", "rejected", "rejected"]
    refusals = [scene["refusal"] and scene["refusal"]["code"] for scene in scenes]
    assert refusals == [None, "INSUFFICIENT_STOCK", "CARD_DECLINED"]
    changes = [scene["stock_after"]["available"] - scene["stock_before"]["available"] for scene in scenes]
    assert changes == [-2, 0, 0]
    assert all(saga["timeline"] for scene in scenes for saga in scene["sagas"])


async def test_a_killed_process_is_noticed_and_comes_back_on_its_port(suite: Suite) -> None:
    address, before = suite.address("payments"), suite.pids["payments"]
    suite.kill("payments")
    assert "payments ended (exit code -9)" in await suite.first_death()
    await suite.restart("payments")
    assert suite.address("payments") == address
    assert suite.pids["payments"] != before


async def test_a_paused_process_stands_still_until_it_is_resumed(suite: Suite) -> None:
    process = psutil.Process(suite.pids["orchestrator"])
    suite.pause("orchestrator")
    async with asyncio.timeout(10):
        while process.status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - the kernel sets no Event
            await asyncio.sleep(0.01)
    suite.resume("orchestrator")
    await suite.wait_ready("orchestrator")
    assert process.status() != psutil.STATUS_STOPPED


async def test_everything_stops_in_order_by_itself_and_the_second_start_has_its_data(suite: Suite) -> None:
    running = suite.pids
    await suite.stop()
    assert [suite.process(name).exit_code for name in suite.names] == [0] * len(suite.names)
    assert not any(psutil.pid_exists(pid) for pid in running.values())
    await suite.start()
    scenes = await play(suite.gateway_url, suite.password("admin"), suite.password("customer"))
    assert scenes[0]["order"]["state"] == "confirmed"


async def test_the_children_of_a_killed_supervisor_are_gone_with_it(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from deploy.local.suite import Suite\n"
        "async def main():\n"
        "    suite = Suite(pathlib.Path(sys.argv[1]), fsync=False, sample_data=False)\n"
        "    await suite.start()\n"
        "    print(*suite.pids.values(), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    line = await asyncio.wait_for(supervisor.stdout.readline(), timeout=90)
    children = [psutil.Process(int(pid)) for pid in line.split()]
    supervisor.send_signal(signal.SIGKILL)
    await supervisor.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=30)
    assert alive == []
