"""Kills a process that uses a store at one step after another, and checks what is left. Run by test_crash.py.

    python -m tests.storage.crash_server DIRECTORY SCENARIO

A *step* stands before each thing that changes the disk: a file step, and in a transaction its begin, its commit and its return.
For each step N a forked child does the scenario's work on a copy of the prepared directory and kills itself with SIGKILL at step
N; a second child opens what is left and checks it against what the first one was promised. The parent stays without threads, so
that it may fork.

SIGKILL loses no page that was written, synced or not; so nothing is synced here, which makes thousands of steps affordable. What
a loss of power may lose is for a simulated engine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import lmdb

from ravel_node.raft.types import NO_LIMIT, Index, Snapshot
from ravel_node.storage import files, lmdb_engine, snapshots
from ravel_node.storage.base import Save
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from tests.storage.support import (
    BIRTH,
    NEVER,
    apply,
    at,
    bootstrap,
    contents,
    entries,
    entry,
    hard_state,
    install,
    join,
    transfer,
)

OPTIONS: Final = replace(NEVER, compact_records_max=5, segment_bytes_max=600)
FILE_STEPS: Final = ("make_directory", "rename", "remove_file", "remove_tree", "write_file", "sync_file", "sync_directory")
LOG_END: Final = 20
APPLIED: Final = 12


def puts(index: int) -> dict[bytes, bytes | None]:
    """What entry `index` does in these scenarios."""
    return {b"k%d" % (index % 7): b"value %d" % index, b"k%d" % ((index + 3) % 7): None}


def model(index: int) -> list[tuple[bytes, bytes]]:
    """The user keys after entry `index`."""
    state: dict[bytes, bytes] = {}
    for each in range(2, index + 1):
        for key, value in puts(each).items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return sorted(state.items())


async def opened(path: Path, options: StoreOptions = OPTIONS) -> DiskStore:
    return await open_store(path, options)


async def prepare_log(path: Path) -> None:
    """A cluster's first replica with entries 2 to LOG_END, of which APPLIED are applied and flushed."""
    store = await opened(path / "a")
    await bootstrap(store)
    await store.save([Save(entries(2, LOG_END), hard_state(1, APPLIED))])
    for index in range(2, APPLIED + 1):
        apply(store, index, puts(index))
    await store.close()


async def prepare_nothing(path: Path) -> None:
    """The scenario begins with no directory."""


async def prepare_transfer(path: Path) -> None:
    """A snapshot of entry APPLIED in `a`, and in `b` a replica that lags behind."""
    await prepare_log(path)
    store = await opened(path / "a")
    await store.build_snapshot()
    await store.close()
    other = await opened(path / "b")
    await join(other)
    await other.save([Save(entries(1, 5), hard_state(1, 3))])
    apply(other, 1, {b"old": b"state"})
    await other.close()


@dataclass(frozen=True)
class Left:
    """What the killed process left, and what it had been promised."""

    path: Path
    promised: list[str]

    async def store(self, name: str = "a") -> DiskStore:
        store = await opened(self.path / name)
        assert await store.check() == []
        states = [each.name for each in (self.path / name).iterdir() if each.name.startswith("state-")]
        assert len(states) == 1, states
        return store


Promise = Callable[[str], None]


async def act_create(path: Path, promise: Promise) -> None:
    store = await opened(path / "a")
    promise(f"id {store.identity.server_id}")
    await bootstrap(store)
    promise("bootstrapped")
    await store.close()


async def check_create(left: Left) -> None:
    store = await left.store()
    ids = [each.split()[1] for each in left.promised if each.startswith("id ")]
    assert not ids or store.identity.server_id == ids[0]
    if store.identity.blank:
        assert "bootstrapped" not in left.promised
        assert (store.applied, store.last_index()) == (at(0, 0), 0)
        await bootstrap(store)
    assert (store.applied, store.last_index(), store.initial_state()[1]) == (at(1), 1, BIRTH.conf_state)
    await store.close()


async def act_save(path: Path, promise: Promise) -> None:
    store = await opened(path / "a")
    await store.save([Save(entries(15, 16, term=2), hard_state(2, 13)), Save([entry(17, term=2)])])
    promise("first")
    await store.save([Save(entries(18, 40, term=2), hard_state(3, 14))])
    promise("second")
    await store.close()


async def check_save(left: Left) -> None:
    store = await left.store()
    found = list(store.entries(Index(2), Index(store.last_index() + 1), NO_LIMIT))
    state = store.initial_state()[0]
    outcomes = [
        (entries(2, 20), hard_state(1, 12)),
        (entries(2, 14) + entries(15, 17, term=2), hard_state(2, 13)),
        (entries(2, 14) + entries(15, 40, term=2), hard_state(3, 14)),
    ]
    assert (found, state) in outcomes[len(left.promised) : len(left.promised) + 2]
    assert contents(store) == model(APPLIED)
    await store.close()


async def act_flush(path: Path, promise: Promise) -> None:
    store = await opened(path / "a")
    for index in range(APPLIED + 1, LOG_END + 1):
        apply(store, index, puts(index))
    await store.flush()
    promise(str(LOG_END))
    await store.close()


async def check_flush(left: Left) -> None:
    store = await left.store()
    assert store.applied.index >= (LOG_END if left.promised else APPLIED)
    assert contents(store) == model(store.applied.index)
    await store.close()


async def act_compact(path: Path, promise: Promise) -> None:
    store = await opened(path / "a")
    await store.compact(Index(APPLIED))
    promise("compacted")
    await store.close()


async def check_compact(left: Left) -> None:
    store = await left.store()
    first = store.first_index()
    assert first in ((13,) if left.promised else (2, 7, 12, 13))
    assert list(store.entries(first, Index(LOG_END + 1), NO_LIMIT)) == entries(first, LOG_END)
    assert store.term(Index(first - 1)) == 1
    await store.close()


async def act_snapshot(path: Path, promise: Promise) -> None:
    store = await opened(path / "a", replace(OPTIONS, snapshots_kept=1))
    for index in range(APPLIED + 1, LOG_END + 1):
        apply(store, index, puts(index))
        if index in (APPLIED + 1, LOG_END):
            promise(str((await store.build_snapshot()).header.index))
    await store.close()


async def check_snapshot(left: Left) -> None:
    store = await left.store()
    assert store._verifier is not None
    await store._verifier
    kept = [file.header.index for file in store.snapshots()]
    if left.promised:
        assert max(kept, default=0) >= int(left.promised[-1])
    assert set(kept) <= {APPLIED + 1, LOG_END}
    names = {each.name for each in (left.path / "a" / "snapshots").iterdir()}
    assert names == {file.path.name for file in store.snapshots()} | {f"{file.name}.json" for file in store.snapshots()}
    assert contents(store) == model(store.applied.index)
    await store.close()


async def act_install(path: Path, promise: Promise) -> None:
    source = await opened(path / "a")
    assert source._verifier is not None
    await source._verifier
    store = await opened(path / "b")
    snapshot = await transfer(source.snapshots()[0], store, chunk=50_000)
    await install(store, snapshot, [Save(entries(APPLIED + 1, 15, term=2))])
    promise("installed")
    await store.close()
    await source.close()


async def check_install(left: Left) -> None:
    store = await left.store("b")
    if store.applied == at(APPLIED):
        assert contents(store) == model(APPLIED)
        assert (store.first_index(), store.last_index(), store.term(Index(15))) == (APPLIED + 1, 15, 2)
        assert store.initial_state() == (hard_state(1, APPLIED, vote=0), BIRTH.conf_state)
    else:
        assert not left.promised
        assert (store.applied, store.first_index(), store.last_index()) == (at(1), 1, 5)
        assert contents(store) == [(b"old", b"state")]
        assert store.initial_state()[0] == hard_state(1, 3)
        source = await opened(left.path / "a")
        assert source._verifier is not None
        await source._verifier
        snapshot: Snapshot = await transfer(source.snapshots()[0], store)  # and it can be had again
        await install(store, snapshot)
        assert contents(store) == model(APPLIED)
        await source.close()
    await store.close()


Act = Callable[[Path, Promise], Coroutine[Any, Any, None]]
Prepare = Callable[[Path], Coroutine[Any, Any, None]]
Check = Callable[[Left], Coroutine[Any, Any, None]]

SCENARIOS: Final[dict[str, tuple[Prepare, Act, Check]]] = {
    "create": (prepare_nothing, act_create, check_create),
    "save": (prepare_log, act_save, check_save),
    "flush": (prepare_log, act_flush, check_flush),
    "compact": (prepare_log, act_compact, check_compact),
    "snapshot": (prepare_log, act_snapshot, check_snapshot),
    "install": (prepare_transfer, act_install, check_install),
}


class Killer:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self._kill_at = kill_at
        self._count = 0

    def step(self) -> None:
        self._count += 1
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def stepping(*arguments: Any, **named: Any) -> Any:
            self.step()
            return original(*arguments, **named)

        setattr(owner, name, stepping)

    def arm(self) -> None:
        for name in FILE_STEPS:
            self.before(files, name)
        self.before(snapshots, "_write_at")
        self.before(lmdb_engine.LmdbEnvironment, "_copy")
        original = lmdb_engine.LmdbEnvironment._commit

        def commit(env: lmdb_engine.LmdbEnvironment, job: Callable[[Any], Any]) -> Any:
            def stepping(txn: Any) -> Any:
                result = job(txn)
                self.step()
                return result

            self.step()
            result = original(env, stepping)
            self.step()
            return result

        lmdb_engine.LmdbEnvironment._commit = commit  # type: ignore[method-assign, assignment]


def forget_syncing() -> None:
    os.fsync = lambda fd: None
    real = lmdb.open
    lmdb.open = lambda *arguments, **named: real(*arguments, **named, sync=False)  # type: ignore[assignment, misc]


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(folder: Path, scenario: str) -> int:
    """How many steps were killed at. Raises SystemExit at the first one that left something wrong."""
    prepare, act, check = SCENARIOS[scenario]
    forget_syncing()
    template = folder / "template"
    template.mkdir()
    if in_child(lambda: asyncio.run(prepare(template))):
        raise SystemExit(f"{scenario}: the preparation failed")
    step = 0
    while True:
        step += 1
        path, promises = folder / f"run-{step}", folder / f"promises-{step}"
        shutil.copytree(template, path)
        promises.touch()

        def promise(text: str, promises: Path = promises) -> None:
            with promises.open("a") as file:
                file.write(text + "\n")

        def work(path: Path = path, kill_at: int = step, promise: Promise = promise) -> None:
            Killer(kill_at).arm()
            asyncio.run(act(path, promise))

        code = in_child(work)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"{scenario}: the work failed before step {step}, with {code}")
        left = Left(path, promises.read_text().splitlines())
        if in_child(lambda left=left: asyncio.run(check(left))):  # type: ignore[misc]
            raise SystemExit(f"{scenario}: killed at step {step} with the promises {left.promised}, and found something wrong")
        shutil.rmtree(path)
        if code == 0:
            return step - 1


if __name__ == "__main__":
    print(run(Path(sys.argv[1]), sys.argv[2]))
