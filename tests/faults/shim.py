"""The failing disk of shim.c, built and controlled: `Disk(server, folder)` before the server starts, then its attributes.

The library is built once per test session, with `cc`. Where there is none, the tests that need it skip, and say so loudly.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster import Server

SOURCE: Final = Path(__file__).with_name("shim.c")
FIELDS: Final = ("loaded", "steps", "kill_at", "torn", "syncs", "fail_syncs", "failed", "sync_delay_ms", "slowed", "clock_ms")
ONLY_BYTES: Final = 128
SIZE: Final = 8 * len(FIELDS) + ONLY_BYTES


def build(folder: Path) -> Path:
    """Compile the library into `folder`. Skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) is here, so disks that fail were NOT tested: apt-get install gcc libc6-dev")
    library = folder / "shim.so"
    done = subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", "-o", str(library), str(SOURCE), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return library


class Disk:
    """What a server's disk does. Each attribute is one number of the control file; assigning takes effect at once."""

    loaded: int
    steps: int
    kill_at: int
    torn: int
    syncs: int
    fail_syncs: int
    failed: int
    sync_delay_ms: int
    slowed: int
    clock_ms: int  # added to the time of day; may be negative

    def __init__(self, server: Server, library: Path) -> None:
        """From its next start on the server runs with the library."""
        path = server.data_dir.with_name(f"{server.name}.disk")
        path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            object.__setattr__(self, "_map", mmap.mmap(file.fileno(), SIZE))
        server.environment |= {
            "LD_PRELOAD": str(library),
            "FAULT_CONTROL": str(path),
            "FAULT_DIRECTORY": str(server.data_dir),
        }

    def __getattr__(self, name: str) -> int:
        if name not in FIELDS:
            raise AttributeError(name)
        number: int = struct.unpack_from("<Q", self._control, 8 * FIELDS.index(name))[0]
        return number

    def __setattr__(self, name: str, value: int) -> None:
        struct.pack_into("<Q", self._control, 8 * FIELDS.index(name), value % (1 << 64))

    @property
    def _control(self) -> mmap.mmap:
        found: mmap.mmap = self.__dict__["_map"]
        return found

    def only(self, part: str) -> None:
        """Count only paths that contain this; empty: all of the data directory."""
        self._control[8 * len(FIELDS) :] = part.encode().ljust(ONLY_BYTES, b"\0")

    def arm(self, *, kill_at: int, torn: bool = False, only: str = "") -> None:
        """Begin to count anew; the process dies at step `kill_at`, 0: never."""
        self.kill_at = 0
        self.only(only)
        self.steps, self.torn, self.kill_at = 0, int(torn), kill_at
