"""Copies of the protos, to change."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def copied(folder: Path) -> Path:
    """Copy buf.yaml and the protos into a folder; return where the protos are."""
    shutil.copy(ROOT / "buf.yaml", folder)
    shutil.copytree(
        ROOT / "protos", folder / "protos", ignore=shutil.ignore_patterns("gen", "*.py", "__pycache__")
    )
    return folder / "protos"


def replaced(protos: Path, name: str, old: str, new: str) -> None:
    """Change what stands once in a proto."""
    path = protos / "sagacity" / name
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")
