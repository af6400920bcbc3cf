"""Rules of STYLE.md that a reader of the source can check by machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ravel_node", "ravelctl", "protos/ravelpb")
MAY_REEXPORT = {"ravel_node/raft", "ravelctl/client", "protos/ravelpb"}
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"}


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {_name(path): ast.parse(path.read_text()) for path in _sources()}


def test_there_is_source_to_check(trees: dict[str, ast.Module]) -> None:
    assert "ravel_node/config.py" in trees


def test_every_module_says_what_it_is(trees: dict[str, ast.Module]) -> None:
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_packages_hold_a_docstring_and_few_reexport(trees: dict[str, ast.Module]) -> None:
    found = [
        name
        for name, tree in trees.items()
        if name.endswith("/__init__.py") and name != "ravel_node/__init__.py"
        if name.removesuffix("/__init__.py") not in MAY_REEXPORT and len(tree.body) > 1
    ]
    assert found == []


def test_source_has_no_assert_because_python_can_be_told_to_skip_it(trees: dict[str, ast.Module]) -> None:
    found = [f"{name}:{node.lineno}" for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert found == [], "use invariant()"


def test_the_daemon_has_no_locks(trees: dict[str, ast.Module]) -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        if name.startswith("ravel_node/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in LOCKS
    ]
    assert found == [], "state that needs a lock has two owners: choose one"


def test_no_module_is_called_utils() -> None:
    assert [_name(path) for path in _sources() if path.stem in ("utils", "helpers", "common", "misc")] == []
