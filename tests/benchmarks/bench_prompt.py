"""How long the prompt waits: fresh processes of ravelctl, in turns with bare Python, as medians of the difference in ms.

    python -m tests.benchmarks.bench_prompt [--rounds N]

In turns, so that whatever else the machine does slows both alike. `status` is asked of three pretended daemons in this process,
which costs more than real ones elsewhere would: they share the processor with it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.ravelctl.fake import FakeCluster

ROOT: Final = Path(__file__).resolve().parents[2]
BARE: Final = [sys.executable, "-c", ""]
RAVELCTL: Final = [
    sys.executable,
    "-c",
    "import sys; from ravelctl.__main__ import main; sys.exit(main())",
]  # as the installed script
ALLOWED_MS: Final = {
    "--help": 60,
    "a command's --help": 60,
    "an error": 60,
    "a command's error": 60,
    "Tab": 50,
    "Tab, a value": 50,
    "Tab, cluster down": 150,
}
STATUS_MS: Final = 250


def environment(home: str, **more: str) -> dict[str, str]:
    """As a user's, with compiled modules kept under `home`: an installed program has them."""
    ours = ("RAVELCTL_", "_RAVELCTL", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    places = {f"XDG_{kind}_HOME": home for kind in ("CONFIG", "CACHE", "STATE")} | {"PYTHONPYCACHEPREFIX": f"{home}/compiled"}
    return kept | places | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])} | more


def milliseconds(command: Sequence[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, env=env, check=False)
    return (time.perf_counter() - began) * 1000


def measure(rounds: int, runs: dict[str, Callable[[], float]], bare: Callable[[], float]) -> dict[str, list[float]]:
    """Differences to the bare run before each, by name. One round is not counted: it warms the caches of files."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            difference = -bare() + run()
            if number:
                found[name].append(difference)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    cluster = FakeCluster()
    with tempfile.TemporaryDirectory() as home:
        plain = environment(home)

        def tab(line: str) -> Callable[[], float]:
            env = environment(home, _RAVELCTL_COMPLETE="bash_complete", _RAVELCTL_LINE=line)
            return lambda: milliseconds(RAVELCTL, env)

        # Names that an earlier command met, of daemons that a packet never comes back from.
        gone = " ".join(f"192.0.2.{number}:7400" for number in (1, 2, 3))
        cache = Path(home, "ravelctl", "members")
        cache.parent.mkdir()
        cache.write_text(f"endpoints {gone}\tn1 n2 n3\t{gone}\n")
        down = tab(f"ravelctl leave -e {gone.replace(' ', ',')} n")

        try:
            first, *_ = cluster.found(3)
            runs: dict[str, Callable[[], float]] = {
                "--help": lambda: milliseconds([*RAVELCTL, "--help"], plain),
                "a command's --help": lambda: milliseconds([*RAVELCTL, "member", "promote", "--help"], plain),
                "an error": lambda: milliseconds([*RAVELCTL, "statsu"], plain),
                "a command's error": lambda: milliseconds([*RAVELCTL, "kv", "put", "k"], plain),
                "Tab": tab("ravelctl st"),
                "Tab, a value": tab("ravelctl leave "),
                "Tab, cluster down": down,
                "status": lambda: milliseconds([*RAVELCTL, "status", "-e", first], plain),
            }
            found = measure(rounds, runs, lambda: milliseconds(BARE, plain))
        finally:
            cluster.stop()
        bare = statistics.median(milliseconds(BARE, plain) for _ in range(rounds))
    print(f"bare Python {bare:.0f} ms; the rest is on top of it, medians of {rounds}")
    print(f"{'':20}  {'median':>6}  {'best':>6}  {'allowed':>7}")
    for name, differences in found.items():
        allowed = STATUS_MS if name == "status" else ALLOWED_MS[name]
        median = statistics.median(differences)
        mark = "" if median <= allowed else "  TOO SLOW"
        print(f"{name:20}  {median:6.0f}  {min(differences):6.0f}  {allowed:7}{mark}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
