"""Nobody waits for stderr: lines are kept while it takes nothing, dropped and counted when they are too many."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravel_node import log_output
from ravel_node.log_limiter import Event
from ravel_node.log_output import LogOutput

WAIT_S = 60.0


class Pipe:
    """What lines are written to: it takes them while it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.stuck = threading.Event()  # a write waits
        self.error: OSError | None = None
        self.lines: list[str] = []
        self.chunks: list[int] = []

    def write(self, chunk: bytes) -> None:
        if not self.open.is_set():
            self.stuck.set()
            assert self.open.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        self.chunks.append(len(chunk))
        self.lines += chunk.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.open.set()  # the thread is not left waiting


def say(output: LogOutput, *numbers: int) -> None:
    for number in numbers:
        output.event({"event": "a", "why": str(number)})


def said(*numbers: int) -> list[str]:
    return [f"ravel_node: {number}" for number in numbers]


def dropped(count: int) -> str:
    return f"ravel_node: {count} log lines were dropped because stderr did not take them"


def test_lines_arrive_in_order_and_several_in_one_write(pipe: Pipe) -> None:
    output = LogOutput(pipe.write)
    say(output, 0)
    assert pipe.stuck.wait(WAIT_S)
    say(output, *range(1, 200))
    output.text(b"printed\n")
    pipe.open.set()
    assert output.flush(WAIT_S)
    assert pipe.lines == [*said(*range(200)), "printed"]
    assert len(pipe.chunks) < 5
    assert max(pipe.chunks) <= log_output.CHUNK_BYTES


def test_a_lot_of_lines_is_written_in_large_pieces(pipe: Pipe) -> None:
    output = LogOutput(pipe.write)
    say(output, 0)
    assert pipe.stuck.wait(WAIT_S)
    say(output, *range(1, 16_000))
    pipe.open.set()
    assert output.flush(WAIT_S)
    assert pipe.lines == said(*range(16_000))
    assert len(pipe.chunks) < 30


def test_what_is_too_much_is_dropped_in_one_place_and_reported_there(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_output, "LINES_MAX", 10)
    output = LogOutput(pipe.write)
    say(output, 0)
    assert pipe.stuck.wait(WAIT_S)
    say(output, *range(1, 58))
    assert not output.flush(0.01), "it does not say that it wrote what it did not"
    pipe.open.set()
    assert output.flush(WAIT_S)
    say(output, 100)
    assert output.flush(WAIT_S)
    assert pipe.lines == [*said(*range(11)), dropped(47), *said(100)]
    assert output.counts.dropped == 47


def test_bytes_are_bounded_too(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_output, "BYTES_MAX", 1_000)
    output = LogOutput(pipe.write)
    say(output, 0)
    assert pipe.stuck.wait(WAIT_S)
    output.text(b"x" * 900 + b"\n")
    output.text(b"y" * 900 + b"\n")
    output.text(b"z\n")
    pipe.open.set()
    assert output.flush(WAIT_S)
    assert pipe.lines == [*said(0), "x" * 900, dropped(2)]


def test_it_can_happen_again(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_output, "LINES_MAX", 2)
    output = LogOutput(pipe.write)
    for round_ in range(3):
        pipe.open.clear()
        pipe.stuck.clear()
        say(output, 0)
        assert pipe.stuck.wait(WAIT_S)
        say(output, 1, 2, 3)
        pipe.open.set()
        assert output.flush(WAIT_S)
        assert pipe.lines == [*said(0, 1, 2), dropped(1)] * (round_ + 1)
    assert output.counts.dropped == 3


def test_lines_that_cannot_be_written_are_counted_and_reported_when_it_works_again(pipe: Pipe) -> None:
    """A disk that is full for a while."""
    output = LogOutput(pipe.write)
    pipe.open.set()
    pipe.error = OSError(28, "no space left on device")
    for number in range(3):
        say(output, number)
        assert output.flush(WAIT_S)
    assert output.counts.dropped == 3
    pipe.error = None
    say(output, 3)
    assert output.flush(WAIT_S)
    assert pipe.lines == [dropped(3), *said(3)]


def test_the_traceback_of_an_event_that_cannot_be_rendered_takes_its_place(pipe: Pipe) -> None:
    def render(event: Event) -> str:
        return str(event["there"])

    output = LogOutput(pipe.write)
    pipe.open.set()
    output.configure(render, None)
    for name in ("there", "missing", "there"):
        output.event({"event": "a", name: "shown"})
    assert output.flush(WAIT_S)
    assert [line for line in pipe.lines if line in ("shown", "KeyError: 'there'")] == ["shown", "KeyError: 'there'", "shown"]


def test_an_event_that_is_logged_while_another_one_is_put_does_no_harm(pipe: Pipe) -> None:
    """Many threads at once: every line arrives once and whole."""
    output = LogOutput(pipe.write)
    pipe.open.set()
    threads = [threading.Thread(target=say, args=(output, *range(number, 4_000, 8))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert output.flush(WAIT_S)
    assert sorted(pipe.lines) == sorted(said(*range(4_000)))


# --- a process of its own, with a pipe for its stderr

PATH = os.pathsep.join(path for path in sys.path if path)


def start(program: str, stderr: int) -> subprocess.Popen[bytes]:
    source = "import sys, os\nfrom ravel_node.log_output import stderr_output\noutput = stderr_output()\n" + program
    return subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
        env={**os.environ, "PYTHONPATH": PATH},
    )  # fmt: skip


@pytest.fixture
def full() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4_096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError('why it broke')", "import asyncio\nasyncio.run(None)"])
def test_a_process_ends_although_nobody_reads_its_last_words(full: tuple[int, int], end: str) -> None:
    with start(f"print('x' * 70_000, file=sys.stderr)\nprint('said', flush=True)\n{end}\n", full[1]) as process:
        assert process.wait(WAIT_S) == {"": 0, "sys.exit(3)": 3}.get(end, 1)


def test_a_crash_of_c_code_ends_the_process_although_nobody_reads_its_last_words(full: tuple[int, int]) -> None:
    with start("import faulthandler, signal\nfaulthandler.enable(2)\nsignal.raise_signal(signal.SIGSEGV)\n", full[1]) as process:
        assert process.wait(WAIT_S) == -11


def test_last_words_are_read(tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("wb") as log,
        start("output.text(b'one\\n')\nraise ValueError('why it broke')\n", log.fileno()) as it,
    ):
        assert it.wait(WAIT_S) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("one", "Traceback (most recent call last):", "ValueError: why it broke")


def test_a_pipe_that_others_share_stays_as_it_is(full: tuple[int, int]) -> None:
    """O_NONBLOCK would apply to a shell and to every other process that has the same pipe."""
    with start("print(os.get_blocking(2), flush=True)\nsys.stdin.read()\n", full[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"False\n"
        assert os.get_blocking(full[1])
        assert process.wait(WAIT_S) == 0


def test_a_pipe_that_another_process_made_nonblocking_loses_nothing(full: tuple[int, int]) -> None:
    reading, writing = full
    os.set_blocking(writing, False)
    with start("output.text(b'said\\n')\nprint('done', flush=True)\nprint(output.flush(60), flush=True)\n", writing) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        taken = b""
        while b"said\n" not in taken:
            taken = taken[-5:] + os.read(reading, 65_536)
        assert process.stdout.readline() == b"True\n"
        assert process.wait(WAIT_S) == 0
