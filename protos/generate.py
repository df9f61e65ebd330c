"""Generates the typed stubs of every proto into a folder: `python protos/generate.py [OUT]`."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(out: Path) -> None:
    """Write the stubs of all protos into the folder `out`; raise SystemExit where protoc fails."""
    sources = sorted(path for root in ("sagacity", "buf") for path in (PROTOS / root).rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
    arguments += [f"--{kind}_out={out}" for kind in ("python", "mypy")]
    with_rpcs = [path for path in sources if "\nservice " in path.read_text("utf-8")]
    for options, files in (
        ([], sources),
        ([f"--{kind}_out={out}" for kind in ("grpc_python", "mypy_grpc")], with_rpcs),
    ):
        if protoc.main([*arguments, *options, *map(str, files)]) != 0:
            raise SystemExit("protoc failed; what it said stands above")
    (out / "sagacity" / "py.typed").touch()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS / "gen"
    target.mkdir(parents=True, exist_ok=True)
    generate(target)
