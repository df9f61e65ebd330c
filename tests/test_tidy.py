"""Style that can be checked is checked: sizes, banned names, contracts that nothing else looks at."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("chassis", "services", "orchestrator", "gateway", "cli", "deploy", "tests")
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base_repository"}
# Functions that raise where something does not hold.
CHECKS = ("assert_", "check_", "require_", "prove_")
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME)\b")


def modules() -> list[Path]:
    return [path for name in PROGRAMS for path in sorted((ROOT / name).rglob("*.py"))]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def test_there_is_code_to_check() -> None:
    assert len(modules()) > 20


def test_no_module_is_longer_than_400_lines() -> None:
    long = {str(path): len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert {path: lines for path, lines in long.items() if lines > MAX_MODULE_LINES} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules()
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [str(path) for path in modules() if path.stem in BANNED_NAMES] == []


def test_nothing_unfinished_is_committed() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert hits == []


def test_every_test_asserts_something() -> None:
    idle = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules()
        if path.name.startswith("test_")
        for node in functions(path)
        if node.name.startswith("test_") and not _asserts(node)
    ]
    assert idle == []


def _asserts(node: ast.AST) -> bool:
    for child in ast.walk(node):
        if isinstance(child, ast.Assert):
            return True
        if isinstance(child, ast.Call):
            name = ast.unparse(child.func)
            if name in {"pytest.raises", "pytest.fail"} or name.rsplit(".", 1)[-1].startswith(CHECKS):
                return True
    return False


def test_no_test_sleeps_for_a_fixed_time_to_let_something_happen() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{child.lineno}"
        for path in modules()
        if path.name.startswith("test_")
        for node in functions(path)
        if node.name.startswith("test_")
        for child in ast.walk(node)
        if isinstance(child, ast.Call) and ast.unparse(child.func) == "time.sleep"
    ]
    assert hits == []


@pytest.mark.parametrize(
    "pattern", [r"https?://[a-z.-]+/(?:packages|simple|maven2)/", r"--(?:extra-)?index-url"]
)
def test_nothing_tracked_names_a_package_registry(pattern: str) -> None:
    own = Path(__file__)
    hits = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path != own and re.search(pattern, path.read_text("utf-8", errors="ignore"))
    ]
    assert hits == []


def test_every_crash_point_is_named_once() -> None:
    names = [
        name
        for path in modules()
        if "tests" not in path.parts
        for name in re.findall(r"crash_point\(\s*f?\"([^\"]+)\"", path.read_text("utf-8"))
    ]
    assert sorted(set(names)) == sorted(names)
