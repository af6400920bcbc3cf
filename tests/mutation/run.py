"""The mutation study: make hand-chosen mistakes in copies of the source, run the tests that should notice, print the survivors.

    make mutation                                      # every room
    python -m tests.mutation.run --room server         # one room
    python -m tests.mutation.run --only lease          # mistakes whose names hold this text
    python -m tests.mutation.run --first               # only the test files that most likely notice: quick, and too strict

The working tree is never touched: each job works on a copy of its own in a temporary directory. A mistake is killed if a test
fails, and counts as hung if a test has to be ended because it waits for ever. Exits 1 if a mistake survives that is not known to
survive.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tests.mutation.mistake import ROOT, Mistake, Room, StaleMistakeError
from tests.mutation.mistakes import ROOMS

JOBS = 2
TEST_S = 90
"""A single test that takes longer than this hangs."""
RUN_S = 900
"""All tests of a room together may take this long on a busy machine."""
LEFT_OUT = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist")


class Outcome(Enum):
    """The fate of a mistake."""

    KILLED = "killed"
    HUNG = "hung"
    SURVIVED = "SURVIVED"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one mistake and the test that decided it."""

    room: Room
    mistake: Mistake
    outcome: Outcome
    seen_by: str
    took_s: float

    @property
    def unexpected(self) -> bool:
        """Whether the outcome differs from the one that the mistake declares."""
        return (self.outcome is Outcome.SURVIVED) != bool(self.mistake.survives)


class Runs:
    """The test processes that run now, each with a session of its own, so that it can be ended with all that it started."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()

    def run(self, tree: Path, files: Sequence[str]) -> tuple[Outcome, str]:
        """Run these test files of the tree up to the first failure; return the outcome and the test that failed."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-x",
            "-p",
            "no:cacheprovider",
            "--tb=line",
            "-m",
            "not e2e and not faults",
        ]
        # By a thread, since a loop that never awaits receives no signal: it ends the whole run.
        command += [f"--timeout={TEST_S}", "--timeout-method=thread", *files]
        # Subprocesses of the tests, too, import the copy and not the installed tree.
        environ = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tree), str(tree / "protos")]))
        process = subprocess.Popen(
            command,
            cwd=tree,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._running.add(process)
        try:
            output, _ = process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            return Outcome.HUNG, f"the tests did not end in {RUN_S} s"
        finally:
            self._running.discard(process)
        return _outcome(process.returncode, output)

    def end(self) -> None:
        """Kill whatever runs."""
        for process in list(self._running):
            _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _outcome(code: int, output: str) -> tuple[Outcome, str]:
    """Read what pytest said."""
    if code == 0:
        return Outcome.SURVIVED, ""
    ran = re.findall(r"^tests/(\S+?::.+?)(?= (?:PASSED|FAILED|ERROR|SKIPPED)|$| \+\+)", output, re.MULTILINE)
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", output, re.MULTILINE)
    if "+++ Timeout +++" in output:
        return Outcome.HUNG, ran[-1] if ran else ""
    if failed is None:
        return Outcome.KILLED, f"pytest ended with {code}: {''.join(output.strip().splitlines()[-1:])}"
    return Outcome.KILLED, failed[1]


class Copies:
    """Copies of the working tree, one for each job."""

    def __init__(self, folder: Path, count: int, runs: Runs, *, first_only: bool) -> None:
        self._runs = runs
        self._first_only = first_only
        self._free: SimpleQueue[Path] = SimpleQueue()
        self._edits = 0
        for number in range(count):
            tree = folder / f"tree{number}"
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
            self._free.put(tree)

    def judge(self, room: Room, mistake: Mistake) -> Verdict:
        """Make the mistake in a free copy, run the room's tests there and undo the mistake."""
        tree = self._free.get()
        began = time.monotonic()
        try:
            path = tree / mistake.file
            source = path.read_text()
            self._write(path, mistake.applied(source))
            try:
                outcome, seen_by = self._runs.run(tree, self._files(room, mistake))
            finally:
                self._write(path, source)
        finally:
            self._free.put(tree)
        return Verdict(room, mistake, outcome, seen_by, time.monotonic() - began)

    def _files(self, room: Room, mistake: Mistake) -> list[str]:
        return [f"tests/{name}" for name in mistake.first] if self._first_only else room.test_files(mistake.first)

    def check(self, room: Room) -> str:
        """Run the room's tests without a mistake; return the test that fails, if one does."""
        tree = self._free.get()
        try:
            outcome, seen_by = self._runs.run(tree, room.test_files())
        finally:
            self._free.put(tree)
        return "" if outcome is Outcome.SURVIVED else seen_by or outcome.value

    def _write(self, path: Path, text: str) -> None:
        """Write the file with a time of change that no earlier version of it had, so that no stale bytecode is taken for it."""
        path.write_text(text)
        self._edits += 1
        os.utime(path, (self._edits, self._edits))


def _line(verdict: Verdict) -> str:
    where = verdict.seen_by or verdict.mistake.survives
    return f"{verdict.outcome.value:<9}{verdict.room.name:<11}{verdict.mistake.name}  [{verdict.took_s:.0f} s] {where}"


def _table(verdicts: Sequence[Verdict]) -> str:
    lines = [f"{'room':<12}{'mistakes':>9}{'killed':>8}{'hung':>6}{'survived':>10}"]
    rooms = sorted({verdict.room.name for verdict in verdicts})
    for name in [*rooms, "all"]:
        found = [verdict.outcome for verdict in verdicts if name in ("all", verdict.room.name)]
        counts = [found.count(outcome) for outcome in Outcome]
        lines.append(f"{name:<12}{len(found):>9}{counts[0]:>8}{counts[1]:>6}{counts[2]:>10}")
    return "\n".join(lines)


def _is_chosen(mistake: Mistake, texts: Sequence[str] | None) -> bool:
    return texts is None or any(text in mistake.name for text in texts)


def main() -> int:
    """Run the study from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation.run", description="Make mistakes and see whether the tests notice."
    )
    parser.add_argument("--room", action="append", choices=[room.name for room in ROOMS], help="only this room; may be repeated")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only mistakes whose names hold this; may be repeated")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"mistakes at once ({JOBS})")
    parser.add_argument("--first", action="store_true", help="only the test files that most likely notice")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests first without a mistake")
    options = parser.parse_args()
    rooms = [room for room in ROOMS if not options.room or room.name in options.room]
    chosen = [(room, mistake) for room in rooms for mistake in room.mistakes if _is_chosen(mistake, options.only)]
    rooms = [room for room in rooms if any(room is other for other, _ in chosen)]
    try:
        for _, mistake in chosen:
            mistake.applied((ROOT / mistake.file).read_text())
    except (StaleMistakeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    verdicts: list[Verdict] = []
    runs = Runs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with TemporaryDirectory(prefix="ravel-mutation-") as folder:
        copies = Copies(Path(folder), options.jobs, runs, first_only=options.first)
        pool = ThreadPoolExecutor(options.jobs)
        try:
            if not options.unchecked:
                broken = [f"{room.name}: {seen}" for room, seen in zip(rooms, pool.map(copies.check, rooms), strict=True) if seen]
                if broken:
                    print("the tests fail without a mistake:", *broken, sep="\n", file=sys.stderr)
                    return 2
            for done in as_completed([pool.submit(copies.judge, room, mistake) for room, mistake in chosen]):
                verdicts.append(verdict := done.result())
                print(_line(verdict), flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            runs.end()
            pool.shutdown()
    print(f"\n{_table(verdicts)}")
    unexpected = [verdict for verdict in verdicts if verdict.unexpected]
    for verdict in unexpected:
        known = "survives" if verdict.outcome is Outcome.SURVIVED else "was declared a survivor and is noticed"
        print(f"{verdict.room.name}: {verdict.mistake.name}: {known}", file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
