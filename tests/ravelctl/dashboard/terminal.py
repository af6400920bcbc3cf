"""A real pseudo-terminal with a program in it, and what a terminal would show of its output."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

from tests.ravelctl.on_terminal import on_terminal

ROOT = Path(__file__).parents[3]
TICK_S = 0.05
END_S = 120.0


class Terminal:
    """`ravelctl` with these words, in a terminal of this size. Use as a context: what still runs is ended."""

    def __init__(self, words: Sequence[str], *, columns: int, rows: int, program: Sequence[str] = (), **environ: str) -> None:
        self.raw = b""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        command = list(program) or [sys.executable, "-m", "ravelctl"]
        self._terminal, far = os.openpty()
        self._set_size(columns, rows)
        self._process = subprocess.Popen(
            on_terminal([*command, *words]),
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
            cwd=str(ROOT),
            env={
                **kept,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")]),
                "TERM": "xterm-256color",
                "COLORTERM": "truecolor",
                "LC_ALL": "C.UTF-8",
                "RAVELCTL_CONFIG": str(ROOT / "no-such-file"),
                **environ,
            },
        )
        os.close(far)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(END_S)
        os.close(self._terminal)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def _runs(self) -> bool:
        return self._process.poll() is None

    # --- what it shows

    def _take(self, timeout_s: float) -> bytes:
        if not select.select([self._terminal], [], [], timeout_s)[0]:
            return b""
        try:
            found = os.read(self._terminal, 1 << 16)
        except OSError:  # Linux: nobody has the far end open
            return b""
        self.raw += found
        self._stream.feed(found)
        return found

    def read_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self._runs:
            self._take(min(left, TICK_S))

    def read_some(self, timeout_s: float) -> bytes:
        """Whatever comes next."""
        return self._take(timeout_s)

    def until(self, condition: Callable[[str], Any], timeout_s: float = END_S) -> str:
        """Read until the screen is so. Raises AssertionError with the screen."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.text):
            assert time.monotonic() < deadline, f"it did not come about; the screen:\n{self.text}"
            if not self._take(TICK_S) and not self._runs:
                assert condition(self.text), f"the program has ended; the screen:\n{self.text}"
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def cursor_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)

    # --- hands

    def send(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def resize(self, columns: int, rows: int) -> None:
        self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    def ended(self, timeout_s: float = END_S) -> int:
        """Read until the program has ended; its exit status, or minus the signal."""
        deadline = time.monotonic() + timeout_s
        while self._runs:
            self._take(TICK_S)
            assert time.monotonic() < deadline, f"it did not end; the screen:\n{self.text}"
        while self._take(TICK_S):
            pass
        return self._process.wait()

    # --- what it costs (Linux)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
