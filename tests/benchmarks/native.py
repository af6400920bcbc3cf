"""The load generator in C++ (unary_load.cc): compiled for one run, where Debian's libgrpc++-dev and g++ are installed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("unary_load.cc")


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of it saw: operations a second, latencies in microseconds."""

    rate: float
    p50_us: float
    p99_us: float


def build(folder: Path) -> Path | None:
    """The compiled program; None where compiler or library are missing."""
    if shutil.which("g++") is None or shutil.which("pkg-config") is None:
        return None
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True)
    if found.returncode:
        return None
    program = folder / "unary_load"
    subprocess.run(["g++", "-O2", "-std=c++17", str(SOURCE), "-o", str(program), *found.stdout.split()], check=True)
    return program


async def run(program: Path, address: str, method: str, callers: int, seconds: float) -> Load:
    """Raises RuntimeError, with what it said, if a call failed."""
    process = await asyncio.create_subprocess_exec(
        program, address, method, str(callers), str(seconds), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load on {address}{method} failed: {err.decode().strip()}")
    return Load(*map(float, out.split()))
