"""promtool, which tests alerts: from PATH, or out of Debian's package, unpacked and not installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".sagacity" / "promtool"
DOWNLOAD_SECONDS = 60


def promtool_source() -> str | None:
    """Where promtool comes from; None: from nowhere."""
    if shutil.which("promtool"):
        return "PATH"
    if (CACHE / "promtool").exists():
        return str(CACHE)
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        return "Debian's package prometheus"
    return None


def promtool_path() -> Path:
    """The program; fetched where it is not here yet.

    Raises:
        subprocess.CalledProcessError: Debian's package cannot be had.
    """
    installed = shutil.which("promtool")
    if installed:
        return Path(installed)
    cached = CACHE / "promtool"
    if not cached.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            unpacked = _unpacked(Path(folder))
            # At once, for other workers of the tests may do the same.
            unpacked.replace(cached)
    return cached


def _unpacked(folder: Path) -> Path:
    download = ["apt-get", "download", "prometheus"]
    try:
        _run(download, folder)
    except subprocess.CalledProcessError:
        _run(["apt-get", "update"], folder)  # a machine whose lists of packages were thrown away
        _run(download, folder)
    (package,) = folder.glob("prometheus_*.deb")
    _run(["dpkg-deb", "--extract", str(package), "root"], folder)
    return folder / "root" / "usr" / "bin" / "promtool"


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=DOWNLOAD_SECONDS)
