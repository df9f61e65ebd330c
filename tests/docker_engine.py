"""What a Docker engine on this machine can run, if there is one: asked once, each question with a bound."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SOCKET = "unix:///var/run/docker.sock"
ANSWER_SECONDS = 2
# Of one pull: the longest silence, and all of it.
PULL_SILENCE_SECONDS = 60
PULL_SECONDS = 300


@functools.cache
def answers() -> bool:
    """Tell whether there is an engine."""
    host = os.environ.get("DOCKER_HOST") or SOCKET  # noqa: TID251 - Docker's own variable
    # Asked by a socket of our own first: Docker's client leaves the one open on which nobody answered.
    if host.startswith("unix://") and not _somebody_listens(host.removeprefix("unix://")):
        return False
    try:
        with _client(ANSWER_SECONDS) as client:
            return bool(client.ping())
    except Exception:  # noqa: BLE001 - whatever it says, there is no Docker to use
        return False


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_SECONDS)
        return probe.connect_ex(path) == 0


@functools.cache
def can_run(image: str) -> bool:
    """Tell whether there is an engine that has the image `name:tag`, or has pulled it now, within a bound."""
    return answers() and (_has(image) or _pulled(image))


def _has(image: str) -> bool:
    try:
        with _client(ANSWER_SECONDS) as client:
            client.images.get(image)
    except Exception:  # noqa: BLE001 - not there, or the engine went away: not to be used
        return False
    return True


def _pulled(image: str) -> bool:
    repository, _, tag = image.rpartition(":")
    give_up_at = time.monotonic() + PULL_SECONDS
    try:
        with _client(PULL_SILENCE_SECONDS) as client:
            for _ in client.api.pull(repository, tag=tag, stream=True, decode=True):
                if time.monotonic() > give_up_at:
                    return False
    except Exception:  # noqa: BLE001 - no registry, no such image, no engine: all the same here
        return False
    # A pull that fails on its way says so in its stream only.
    return _has(image)


@contextmanager
def _client(timeout_seconds: int) -> Iterator[Any]:
    import docker  # type: ignore[import-untyped]

    client = docker.from_env(timeout=timeout_seconds)
    try:
        yield client
    finally:
        client.close()
