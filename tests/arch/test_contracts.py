"""The import contracts of pyproject.toml hold, and each of them notices what it is there for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "ravel_node/__main__.py": "import ravel_node.daemon",
    "ravel_node/daemon.py": "import ravel_node.admin.directory, ravel_node.gateway.app, ravelctl.client, grpc, lmdb",
    "ravel_node/server/admin.py": "import ravel_node.admin.directory, grpc",
    "ravel_node/gateway/app.py": "import ravelctl.client.client, ravelpb.errors, ravel_node.gateway.routes",
    "ravel_node/gateway/routes.py": "",
    "ravel_node/admin/directory.py": "import ravel_node.machine.base, ravel_node.admin.placement",
    "ravel_node/admin/placement.py": "",
    "ravel_node/replica/driver.py": "import ravel_node.storage.base, ravel_node.transport.base, asyncio",
    "ravel_node/storage/base.py": "import ravel_node.machine.base",
    "ravel_node/storage/engine.py": "import lmdb, ravel_node.storage.base",
    "ravel_node/storage/memory.py": "import ravel_node.storage.base",
    "ravel_node/transport/base.py": "import ravel_node.raft.types",
    "ravel_node/transport/peer.py": "import grpc, ravelpb.v1",
    "ravel_node/machine/base.py": "import ravel_node.raft.types, ravelpb.slots",
    "ravel_node/raft/types.py": "import enum",
    "ravelctl/offline/directory.py": "import ravel_node.storage.engine, ravel_node.machine.base, ravel_node.raft.types",
    "ravelctl/commands/log.py": "def show():\n    import ravelctl.offline.directory",
    "ravelctl/commands/top.py": "def top():\n    import ravelctl.dashboard.app",
    "ravelctl/dashboard/app.py": "import textual, ravelctl.client",
    "ravelctl/client/client.py": "import grpc, ravelpb.v1",
    "ravelpb/errors.py": "import enum",
    "ravelpb/slots.py": "import zlib",
    "ravelpb/v1/__init__.py": "import google",
}

# (contract, file, what it imports)
FORBIDDEN = [
    ("1: ravel_node is layered", "ravel_node/machine/kv.py", "ravel_node.storage.base"),
    ("1: ravel_node is layered", "ravel_node/storage/log_store.py", "ravel_node.transport.base"),
    ("1: ravel_node is layered", "ravel_node/server/kv.py", "ravel_node.gateway.routes"),
    ("2: the core performs nothing", "ravel_node/raft/leader.py", "random"),
    ("2: the core performs nothing", "ravel_node/raft/log.py", "ravelpb.slots"),
    ("3: replica, machine and admin reach neither", "ravel_node/replica/status.py", "ravel_node.storage.engine"),
    ("3: replica, machine and admin reach neither", "ravel_node/admin/executor.py", "grpc"),
    ("3: the driver knows ports", "ravel_node/replica/reads.py", "ravel_node.storage.memory"),
    ("4: ravelctl runs without the daemon", "ravelctl/commands/kv.py", "ravel_node.machine.base"),
    ("4: ravelctl runs without the daemon", "ravelctl/store.py", "lmdb"),
    ("5: ravel_node sees ravelctl only", "ravel_node/metrics.py", "ravelctl.cli.output"),
    ("5: the client library knows neither", "ravelctl/client/routing/slot_map.py", "ravelctl.commands.log"),
    ("6: client and commands are free", "ravelctl/commands/status.py", "textual"),
    ("6: client and commands are free", "ravelctl/commands/events.py", "ravelctl.dashboard.app"),
    ("7: only daemon and server", "ravel_node/logs.py", "ravel_node.admin.directory"),
    ("7: nothing imports the gateway", "ravel_node/server/inspect.py", "ravel_node.gateway.app"),
    ("the wire's package imports neither side", "ravelpb/fields.py", "ravelctl.cli.output"),
]


def _lint(root: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts over the packages that lie in `root` (and `packages`)."""
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), str(packages)]), COLUMNS="200", NO_COLOR="1")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    command += ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=100, check=False)


def _write(root: Path, files: dict[str, str]) -> None:
    """A tree of packages. Every folder gets an __init__.py."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()


def test_the_contracts_hold() -> None:
    result = _lint(ROOT, ROOT / "protos")
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_the_design_allows_is_allowed(tmp_path: Path) -> None:
    _write(tmp_path, ALLOWED)
    result = _lint(tmp_path, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is reported of a tree in which every contract is broken, by contract."""
    root = tmp_path_factory.mktemp("broken")
    _write(root, ALLOWED | {"ravelctl/cli/output.py": ""} | {file: f"import {imported}" for _, file, imported in FORBIDDEN})
    result = _lint(root, root)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "0 kept" in result.stdout  # so that every contract is tried
    _, *parts = re.split(r"^(.+)\n-{10,}$", result.stdout.partition("Broken contracts")[2], flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize(("contract", "file", "imported"), FORBIDDEN)
def test_a_forbidden_import_is_noticed(broken: dict[str, str], contract: str, file: str, imported: str) -> None:
    report = next(text for name, text in broken.items() if name.startswith(contract))
    assert f"{file.removesuffix('.py').replace('/', '.')} -> {imported} (l.1)" in report
