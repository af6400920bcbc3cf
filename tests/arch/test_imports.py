"""What a fresh process loads. The contracts read source; this sees what really happens, also through other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _loaded_by(module: str, *, without: tuple[str, ...] = ()) -> set[str]:
    """The modules that importing `module` loads in a new process, in which those of `without` are not installed."""
    program = (
        "import json, sys\n"
        f"sys.modules.update(dict.fromkeys({list(without)!r}))\n"
        "before = set(sys.modules)\n"
        f"import {module}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))\n"
    )
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "protos")]))
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def _top(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_core_loads_nothing_but_itself_and_the_standard_library() -> None:
    loaded = _loaded_by("ravel_node.raft")
    assert _top(loaded) - sys.stdlib_module_names == {"ravel_node"}
    assert all(name == "ravel_node" or name.startswith("ravel_node.raft") for name in loaded if name.startswith("ravel_node"))
    assert not _top(loaded) & {"asyncio", "socket", "random", "logging"}


@pytest.mark.parametrize("module", ["ravel_node.replica.replica", "ravel_node.machine.kv"])
def test_replica_and_machine_load_neither_grpc_nor_lmdb(module: str) -> None:
    assert not _top(_loaded_by(module, without=("grpc", "lmdb"))) & {"grpc", "lmdb"}


def test_the_client_library_runs_where_lmdb_is_not_installed() -> None:
    loaded = _top(_loaded_by("ravelctl.client", without=("lmdb",)))
    assert not loaded & {"lmdb", "ravel_node", "click", "rich", "textual"}


@pytest.mark.parametrize("heavy", ["grpc", "lmdb", "rich", "yaml", "textual", "google", "ravel_node", "asyncio"])
def test_the_commands_start_without(heavy: str, cli_modules: set[str]) -> None:
    assert heavy not in cli_modules


@pytest.mark.parametrize(
    "module",
    [
        "ravelctl.commands.top",
        "ravelctl.commands.record",
        "ravelctl.dashboard.headless",
        "ravelctl.dashboard.plain",
        "ravelctl.dashboard.actions",
    ],
)
def test_recording_and_plain_frames_load_no_screens(module: str) -> None:
    assert "textual" not in _top(_loaded_by(module))


def test_no_command_but_top_loads_the_dashboard(every_command: set[str]) -> None:
    assert "textual" not in _top(every_command)
    assert not {name for name in every_command if name.startswith("ravelctl.dashboard")}


@pytest.fixture(scope="module")
def every_command() -> set[str]:
    """What all modules of commands load together when they are named."""
    from ravelctl.cli.root import COMMANDS

    return _loaded_by(", ".join(sorted({module for module, _ in COMMANDS.values()})))


@pytest.fixture(scope="module")
def cli_modules() -> set[str]:
    return _top(_loaded_by("ravelctl.cli.root"))


def test_the_daemons_command_line_starts_without_wire_and_store() -> None:
    assert not _top(_loaded_by("ravel_node.__main__")) & {"grpc", "lmdb", "google", "structlog", "asyncio", "uvloop"}
