from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.children import LOOPBACK

pytestmark = pytest.mark.integration

FREE = ("--port", "0", "--grpc-port", "0")


def run_and_fail(data_dir: Path, *options: str) -> str:
    """Run the command, which must fail; return its one sentence."""
    command = [sys.executable, "-m", "deploy.local", "--data-dir", str(data_dir), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert [process for process in psutil.process_iter() if names(process, data_dir)] == []
    return sentence


def names(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in part for part in process.cmdline())
    except psutil.Error:
        return False


def test_a_taken_port_is_named_together_with_the_option_that_chooses_another(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = run_and_fail(tmp_path, "--grpc-port", "0", "--port", port)
    assert port in sentence
    assert "--port" in sentence


def test_a_second_instance_on_a_folder_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another Sagacity runs on" in run_and_fail(tmp_path, *FREE)


def test_a_broken_data_folder_is_refused_and_nothing_is_left_running(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "pgdata").mkdir(parents=True)
    assert "not a PostgreSQL data folder" in run_and_fail(tmp_path, *FREE)


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used" in run_and_fail(tmp_path / "file", *FREE)


def test_the_demo_says_where_it_found_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.local.demo", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "make run" in done.stderr
