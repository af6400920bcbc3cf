"""Directories of daemons that run, hang or are dead, read by a process that does not own them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ravel_node.machine.base import Database, Rules
from ravel_node.machine.records import KV_RULES
from ravel_node.raft.types import Entry, Index, Term
from ravel_node.storage.base import DamagedError, DirectoryInUseError, FormatError, LaterFormatError, StoreError
from ravel_node.storage.checking import LogCheck, StateCheck
from ravel_node.storage.directory import Directory
from ravel_node.storage.keys import LOG, encode_entry, index_key
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.log_pages import read_log_page
from ravel_node.storage.store import open_store
from ravel_node.storage.survey import DirectoryReader
from tests.storage.support import CLUSTER, NEVER, append, apply, at
from tests.storage.test_damage import LOG_MARK, flip, prepared

ROOT = Path(__file__).resolve().parents[2]

KEEP_OPEN = """
import asyncio, sys
from pathlib import Path
from ravel_node.storage.store import StoreOptions, open_store
from tests.storage.support import append

async def main():
    store = await open_store(Path(sys.argv[1]), StoreOptions())
    print("open", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.startswith("append"):
            for _ in range(int(line.split()[1])):
                await append(store, store.last_index() + 1, store.last_index() + 1)
        print(store.stats()[0].readers, flush=True)
    await store.close()

asyncio.run(main())
"""


@contextmanager
def kept_open(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory open, and writes to it as it is told on its stdin."""
    child = subprocess.Popen(
        [sys.executable, "-c", KEEP_OPEN, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.wait()


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def told(child: subprocess.Popen[str], order: str) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(order + "\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def everything(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes()) for file in path.rglob("*") if file.is_file()
    }


def checked(path: Path, rules: Rules | None = None) -> list[str]:
    reader = DirectoryReader(path)
    found: list[str] = []
    log, state = LogCheck(), StateCheck("state/data.mdb", rules)
    while not log.finished:
        found += reader.raft.read(log.step).problems
    while not state.finished:
        found += reader.current_state().read(state.step).problems
    return found


async def test_a_dead_daemons_directory_is_read_and_not_touched(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    for lock in path.rglob("lock.mdb"):
        lock.unlink()
    before = everything(path)
    reader = DirectoryReader(path)
    facts = reader.look()
    assert (facts.owner, facts.problems) == ("", ())
    assert facts.log.identity is not None
    assert (facts.log.identity.cluster_id, facts.log.identity.replica_id) == (CLUSTER, 1)
    assert (facts.log.base, facts.log.first_index, facts.log.last, facts.log.entries) == (at(1), 2, at(7), 6)
    assert facts.state is not None
    assert (facts.state.name, facts.state.applied, facts.state.keys) == ("state-2", at(7), 2)
    assert [member.name for member in facts.state.members] == ["r1"]
    (snapshot,) = facts.snapshots
    assert snapshot.header is not None
    assert (snapshot.header.index, snapshot.problem) == (7, "")
    assert [environment.name for environment in facts.environments] == ["raft", "state-2"]
    assert checked(path) == []
    assert everything(path) == before


async def test_a_live_and_a_hung_daemons_directory_is_read(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    with kept_open(path) as child:
        assert DirectoryReader(path).look().owner == str(child.pid)
        own = told(child, "append 50")
        assert DirectoryReader(path).look().log.last_index == 57
        child.send_signal(signal.SIGSTOP)
        facts = DirectoryReader(path).look()
        assert (facts.log.last_index, facts.owner) == (57, str(child.pid))
        assert checked(path) == []
        child.send_signal(signal.SIGCONT)
        assert told(child, "append 1") == own, "what only looked must leave no reader behind"
        child.kill()
        child.wait()
        assert DirectoryReader(path).look().log.last_index == 58


async def test_a_reader_that_was_killed_pins_nothing(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    with kept_open(path) as child:
        own = told(child, "append 1")
        program = (
            "import sys, time; from pathlib import Path; from ravel_node.storage.survey import DirectoryReader\n"
            f"DirectoryReader(Path({str(path)!r})).raft.read(lambda txn: (print('in', flush=True), time.sleep(100)))"
        )
        with started(program) as reading:
            assert reading.stdout is not None
            assert reading.stdout.readline() == "in\n"
            assert int(told(child, "append 1")) == int(own) + 1
            reading.kill()
        assert told(child, "append 1") == own


async def test_a_daemon_starts_while_somebody_looks(tmp_path: Path) -> None:
    """The lock that a look takes for a moment is waited for; one that stays is another daemon's."""
    import asyncio
    import fcntl

    path = await prepared(tmp_path / "d")
    descriptor = os.open(path / "LOCK", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    asyncio.get_running_loop().call_later(0.05, os.close, descriptor)
    store = await open_store(path, NEVER)
    with pytest.raises(DirectoryInUseError):
        Directory(path).claim()
    await store.close()


async def test_what_is_no_directory_of_ours_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(StoreError):
            DirectoryReader(wrong)
    (tmp_path / "foreign").mkdir()
    with pytest.raises(FormatError, match="empty"):
        DirectoryReader(tmp_path / "foreign")
    (tmp_path / "foreign" / "x").touch()
    with pytest.raises(FormatError, match="no data directory of ravel"):
        DirectoryReader(tmp_path / "foreign")
    path = await prepared(tmp_path / "d")
    (path / "FORMAT").write_text("ravel 3\n")
    with pytest.raises(LaterFormatError, match="has format 3"):
        DirectoryReader(path)


async def test_what_is_missing_or_cut_is_told(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    data = path / "state-2" / "data.mdb"
    whole = data.read_bytes()
    data.write_bytes(whole[: 3 * 4096])
    facts = DirectoryReader(path).look()
    assert facts.state is None
    assert "state-2" in facts.problems[0]
    data.unlink()
    assert "is missing" in DirectoryReader(path).look().problems[0]
    raft = path / "raft" / "data.mdb"
    raft.write_bytes(b"nothing of LMDB" * 1000)
    with pytest.raises(DamagedError):
        DirectoryReader(path).look()


async def test_a_log_that_is_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    """Never merely one that cannot be read now: no other try would find more."""
    path = await prepared(tmp_path / "d")
    raft = path / "raft" / "data.mdb"
    whole = raft.read_bytes()
    told = 0
    for length in (*range(0, len(whole), 4096), 100, 20_000):
        raft.write_bytes(whole[:length])
        try:
            DirectoryReader(path).look()
            list(checked(path))
        except DamagedError:
            told += 1
    assert told > 2


async def test_a_damaged_record_is_told_in_its_place(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    flip(path / "raft" / "data.mdb", LOG_MARK)
    page = DirectoryReader(path).raft.read(lambda txn: read_log_page(txn, Index(3), Index(100)))
    assert [(record.index, record.entry is None) for record in page.records] == [
        (3, False), (4, False), (5, False), (6, True), (7, False),
    ]  # fmt: skip
    assert "check sum" in page.records[3].problem
    assert (page.next, page.first, page.last) == (8, 2, 7)
    assert [problem[:34] for problem in checked(path)] == ["raft/data.mdb: entry 6 is damaged:"]


async def test_a_gap_is_told_once(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    store = await open_store(path, NEVER)
    await append(store, 8, 20)
    environment = store._log.environment
    for gone in range(4, 10):
        await environment.write(lambda txn, gone=gone: txn.delete(LOG, index_key(gone)))  # type: ignore[misc]
    await store.close()
    page = DirectoryReader(path).raft.read(lambda txn: read_log_page(txn, Index(0), Index(100)))
    assert [record.index for record in page.records if record.entry is None] == [4]
    assert "up to 9" in next(record.problem for record in page.records if record.entry is None)
    assert [record.index for record in page.records] == [2, 3, 4, *range(10, 21)]
    page = DirectoryReader(path).raft.read(lambda txn: read_log_page(txn, Index(3), Index(6)))
    assert ([record.index for record in page.records], page.next) == ([3, 4], 6)


async def test_terms_that_fall_and_a_commit_beyond_the_end_are_found(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    store = await open_store(path, NEVER)
    await append(store, 8, 8, term=5)
    await store._log.environment.write(lambda txn: txn.put(LOG, index_key(9), encode_entry(Entry(Term(4), Index(9), data=b""))))
    await store.close()
    problems = checked(path)
    assert any("entry 9 is damaged: it is of term 4, and entry 8 before it is of term 5" in problem for problem in problems)
    assert any("hard_state is damaged: it is of term" in problem for problem in problems)


async def test_records_that_make_no_sense_are_found(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    store = await open_store(path, NEVER)
    txn = store.txn()
    txn.put(Database.RESULTS, (77).to_bytes(8, "big") + (1).to_bytes(8, "big"), b"\0\0\1" + (5).to_bytes(8, "big"))
    txn.put(Database.KV, b"from the future", (1 << 40).to_bytes(8, "big") + b"value")
    txn.put(Database.MEMBERS, (9).to_bytes(8, "big"), b"\1nonsense")
    await append(store, 8, 8)
    store.applied_to(at(8))
    await store.close()
    told_of = "\n".join(checked(path, KV_RULES))
    assert "answers of client 77, which has no session" in told_of
    assert "it was written at revision 1099511627776" in told_of
    assert "a member record of 9 bytes" in told_of


async def test_many_records_take_many_steps(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    store = await open_store(path, NEVER)
    await append(store, 8, 3000)
    apply(store, 3000, {b"key %d" % number: bytes(8) for number in range(3000)})
    await store.close()
    reader = DirectoryReader(path)
    log, steps = LogCheck(), 0
    while not log.finished:
        step = reader.raft.read(log.step)
        steps += 1
        assert step.problems == ()
    assert (steps, step.done, step.total) == (6, 2999, 2999)
    state, steps = StateCheck("state-2"), 0
    while not state.finished:
        step = reader.current_state().read(state.step)
        steps += 1
    assert steps > 10
    assert step.done == step.total


async def test_a_copy_is_whole(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    DirectoryReader(path).current_state().copy(tmp_path / "copy.mdb")
    engine = LmdbEngine(lambda event, fields: None)
    check = StateCheck("copy")
    while not check.finished:
        assert engine.examine(tmp_path / "copy.mdb", DirectoryReader(path).state(1).databases, check.step).problems == ()
