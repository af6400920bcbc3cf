"""What `ravelctl top` costs: processor, memory, first paint, and from a key to what it paints, in a real pseudo-terminal.

The cluster is scripted (tests/ravelctl/dashboard/scripted.py), runs in another process and reports once a second, with writes
going on.

    python -m tests.benchmarks.bench_top [--seconds 30] [--replicas 5,50]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.ravelctl.dashboard.terminal import Terminal

ROOT = Path(__file__).parents[2]
BUDGET_CPU = {5: 3.0, 50: 5.0}
WARM_UP_S = 5.0
KEYS = 40


def measure(replicas: int, seconds: float) -> dict[str, float]:
    """One run: all figures of a dashboard of so many replicas."""
    scene = [sys.executable, "-m", "tests.ravelctl.dashboard.scripted", "healthy", str(replicas)]
    with subprocess.Popen(scene, cwd=ROOT, env=_environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        try:
            assert cluster.stdout is not None
            addresses = cluster.stdout.readline().strip()
            return _watch(addresses, replicas, seconds)
        finally:
            assert cluster.stdin is not None
            cluster.stdin.close()
            cluster.wait(10)


def _watch(addresses: str, replicas: int, seconds: float) -> dict[str, float]:
    began = time.monotonic()
    with Terminal(["top", "--endpoints", addresses], columns=120, rows=36) as terminal:
        terminal.until(lambda screen: "NODE" in screen, 20)
        first_s, first_cpu_s = time.monotonic() - began, terminal.cpu_s()
        terminal.until(lambda screen: f"quorum {replicas}/{replicas}" in screen, 20)
        settled_s = time.monotonic() - began
        terminal.read_for(WARM_UP_S)
        before, at = terminal.cpu_s(), time.monotonic()
        terminal.read_for(seconds)
        cpu = (terminal.cpu_s() - before) / (time.monotonic() - at) * 100
        rss = terminal.rss_mib()
        keys_ms = [_key_ms(terminal, number) for number in range(KEYS)]
        return {
            "cpu_percent": cpu,
            "rss_mib": rss,
            "first_paint_ms": first_s * 1000,
            "first_paint_cpu_ms": first_cpu_s * 1000,
            "whole_picture_ms": settled_s * 1000,
            "key_p50_ms": statistics.median(keys_ms),
            "key_max_ms": max(keys_ms),
        }


def _key_ms(terminal: Terminal, number: int) -> float:
    """From a key that sorts the table to the terminal's having what changed."""
    terminal.read_for(0.05)
    began = time.monotonic()
    terminal.send("s")
    terminal.read_some(2.0)
    return (time.monotonic() - began) * 1000


def _environ() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "protos")]), GRPC_VERBOSITY="NONE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--replicas", default="5,50")
    given = parser.parse_args()
    heads = ("replicas", "CPU %", "budget", "RSS MiB", "first ms", "of it CPU", "whole ms", "key p50 ms", "key max ms")
    print("  ".join(heads))
    for replicas in map(int, given.replicas.split(",")):
        found = list(measure(replicas, given.seconds).values())
        cells = (replicas, f"{found[0]:.1f}", BUDGET_CPU.get(replicas, "-"), *(f"{value:.0f}" for value in found[1:]))
        print("  ".join(str(cell).rjust(len(head)) for cell, head in zip(cells, heads, strict=True)), flush=True)


if __name__ == "__main__":
    main()
