import signal
import subprocess
import sys
from textwrap import dedent, indent

SET_UP = """
import asyncio, sys
from chassis.config import ProcessSettings, SettingsError
from chassis.crash_points import crash_point
from chassis.errors import Fault, FaultKind
from chassis.lifecycle import main

async def say(text):
    print(text, flush=True)

async def forever(text):
    try:
        await asyncio.Event().wait()
    finally:
        await say(text)

async def fail(error):
    raise error

async def program(life):
"""
WAIT_SECONDS = 30


def started(body: str, **environment: str) -> "subprocess.Popen[str]":
    code = SET_UP + indent(dedent(body), "    ") + "\nmain(program)\n"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )


def ended(body: str, **environment: str) -> tuple[int, str, str]:
    with started(body, **environment) as process:
        out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, err


def stopped_by(number: signal.Signals, body: str) -> tuple[int, str, str]:
    with started(body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, err


def test_a_signal_stops_everything_in_the_reverse_order_of_its_start() -> None:
    body = """
        life.on_stop(lambda: say("pool closed"))
        life.start(forever("relay ended"), name="relay")
        life.on_stop(lambda: say("relay drained"))
        life.on_stop(lambda: say("server stopped"))
        await asyncio.sleep(0)
        await say("ready")
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        code, out, err = stopped_by(number, body)
        assert (code, err) == (0, "")
        assert out.splitlines() == ["server stopped", "relay drained", "relay ended", "pool closed"]


def test_what_fails_at_the_stop_keeps_nothing_else_from_its_turn() -> None:
    body = """
        life.on_stop(lambda: say("pool closed"))
        life.on_stop(lambda: fail(RuntimeError("broken")))
        await say("ready")
    """
    code, out, _ = stopped_by(signal.SIGTERM, body)
    assert code == 0
    assert out.splitlines()[-1] == "pool closed"


def test_a_signal_ends_a_set_up_that_hangs() -> None:
    body = """
        life.on_stop(lambda: say("pool closed"))
        await say("ready")
        await asyncio.Event().wait()
    """
    code, out, err = stopped_by(signal.SIGTERM, body)
    assert (code, out, err) == (0, "pool closed\n", "")


def test_a_background_task_that_dies_ends_the_process_with_an_error_after_its_drain() -> None:
    body = """
        life.on_stop(lambda: say("pool closed"))
        life.start(fail(RuntimeError("no leases")), name="relay")
    """
    code, out, err = ended(body)
    assert code == 1
    assert "background_task_died" in out
    assert out.splitlines()[-1] == "pool closed"
    assert err == "the background task relay died: no leases\n"


def test_a_background_task_that_just_ends_ends_the_process_with_an_error() -> None:
    code, _, err = ended('life.start(say("done"), name="relay")')
    assert (code, err) == (1, "the background task relay ended before the process did\n")


def test_a_fault_at_the_start_is_one_sentence() -> None:
    code, out, err = ended("""
        life.on_stop(lambda: say("pool closed"))
        raise Fault(FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "the database does not answer")
    """)
    assert (code, out, err) == (1, "pool closed\n", "the database does not answer\n")


def test_a_port_that_is_taken_is_one_sentence() -> None:
    code, _, err = ended('raise OSError("cannot listen on host:1: the address is taken")')
    assert (code, err) == (1, "cannot listen on host:1: the address is taken\n")


def test_a_wrong_setting_is_one_sentence_without_its_value() -> None:
    for read in ("ProcessSettings.read()", "ProcessSettings()"):
        code, _, err = ended(read, SAGACITY_LOG_FORMAT="hunter2")
        assert code == 1
        assert "log_format" in err.lower()
        assert "hunter2" not in err
        assert err.count("\n") == 1


def test_a_bug_at_the_start_shows_its_traceback() -> None:
    code, _, err = ended('raise RuntimeError("bug")')
    assert code == 1
    assert "Traceback" in err


def test_a_crash_point_ends_the_process_at_its_nth_passage_only() -> None:
    body = """
        for passage in range(5):
            crash_point("after_charge")
            crash_point("elsewhere")
            await say(passage)
        life.stopping.set()
    """
    assert ended(body)[:2] == (0, "0\n1\n2\n3\n4\n")
    code, out, _ = ended(body, SAGACITY_CRASH_AT="after_charge:3")
    assert (code, out) == (-signal.SIGKILL, "0\n1\n")


def test_a_background_task_that_a_library_cancels_ends_the_process_with_an_error() -> None:
    code, _, err = ended('life.start(fail(asyncio.CancelledError()), name="consumer")')
    assert (code, err) == (1, "the background task consumer was cancelled by nobody\n")
