"""What child processes of a local deployment have in common: they die with their parent; free ports."""

from __future__ import annotations

import ctypes
import random
import shutil
import signal
import socket
import sys
from collections.abc import Callable

from chassis.config import environment
from deploy.local.errors import LocalDeployError

PR_SET_PDEATHSIG = 1
LOOPBACK = "127.0.0.1"
FREE_PORTS = (20_000, 31_999)
# What runs beside another on one machine takes ports of its own part: "2/3" is the second of three.
PART_VARIABLE = "SAGACITY_FREE_PORTS_PART"
MAX_PARTS = 32
FREE_PORT_TRIES = 100

_given: set[int] = set()

# Loaded before any fork: a freshly forked child must not take the loader's lock.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def dies_with_parent(last_signal: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn`: the kernel sends `last_signal` when the thread that started the child ends.

    Only Linux knows this; elsewhere nothing is returned and an orderly stop is what ends the children.
    The signal follows the *thread*: start children from a thread that lives as long as they do.
    """
    libc = _libc
    if libc is None:
        return None

    def arm() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(last_signal), 0, 0, 0)

    return arm


def death_signal_command(last_signal: signal.Signals) -> list[str]:
    """Return a command prefix that does as `dies_with_parent`; a change of user clears what that set."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", last_signal.name.removeprefix("SIG")] if setpriv else []


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on at this moment.

    No port is given twice by one process: who got it may not listen on it yet, or not at this moment.

    Raises:
        LocalDeployError: none was found in `FREE_PORT_TRIES` tries.
    """
    first, last = _range_of_ports()
    for _ in range(FREE_PORT_TRIES):
        # Below what the kernel gives to outgoing connections: one of those could take it first.
        port = random.randint(first, last)  # noqa: S311 - not a secret
        if port not in _given and port_is_free(port):
            _given.add(port)
            return port
    raise LocalDeployError(f"no free TCP port found between {first} and {last}")


def _range_of_ports() -> tuple[int, int]:
    said = environment().get(PART_VARIABLE, "1/1")
    part, slash, parts = said.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) <= MAX_PARTS):
        raise LocalDeployError(
            f"{PART_VARIABLE} is {said!r}, and not like 1/2, with at most {MAX_PARTS} parts"
        )
    first, last = FREE_PORTS
    size = (last + 1 - first) // int(parts)
    return first + (int(part) - 1) * size, first + int(part) * size - 1


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        # As the servers do: a connection in TIME_WAIT is not a taken port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
