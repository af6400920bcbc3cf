"""A machine that fails in the middle of an entry: what a restart and the offline commands make of the directory it leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from ravel_node.machine import envelope
from ravel_node.machine.base import Database
from ravel_node.machine.kv import KVMachine
from ravel_node.raft.types import NO_LIMIT, Index
from ravel_node.storage.base import DamagedError, HalfAppliedError
from ravel_node.storage.keys import STATE_NAMES
from ravel_node.storage.store import DiskStore, open_store
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.offline.support import CLUSTER, OPTIONS, make

A: Final = b"orders/a"
B: Final = b"orders/b"
ENTRIES: Final = [
    [envelope.put(A, b"2"), envelope.put(B, b"2")],
    [envelope.put(A, b"3")],
    [envelope.put(A, b"4"), envelope.delete(B)],
]
KV: Final = STATE_NAMES[Database.KV]


def values(store: DiskStore) -> tuple[bytes, bytes]:
    get = store.reader().get
    return (get(Database.KV, A) or b"")[8:], (get(Database.KV, B) or b"")[8:]


def replay(store: DiskStore) -> None:
    """Apply what the log has and the state lacks, as a replica does at start."""
    machine = KVMachine()
    machine.open(store.reader())
    for entry in store.entries(Index(store.applied.index + 1), Index(store.last_index() + 1), NO_LIMIT):
        machine.apply(entry.id, entry.data, store.txn())
        store.applied_to(entry.id)


async def fail(path: Path, *, repair: bool) -> None:
    """Apply entry 3 whole. Entry 4 writes A, then meets a record of B with a flipped bit, which `repair` restores in the end."""
    store = await open_store(path, OPTIONS)
    environment = store._state.environment
    good = await environment.inspect(lambda txn: txn.get(KV, B)) or b""
    await environment.write(lambda txn: txn.put(KV, B, good[:-1] + bytes([good[-1] ^ 1])))
    store._state._view.renew()
    with pytest.raises(DamagedError, match="orders/b"):
        replay(store)
    assert store.applied.index == 3
    with pytest.raises(HalfAppliedError):
        await store.flush()
    if repair:
        await environment.write(lambda txn: txn.put(KV, B, good))
    await store.close()


async def opened(path: Path) -> list[object]:
    """Where the state stands after a restart, what it holds, and what it holds once the log was replayed."""
    store = await open_store(path, OPTIONS)
    found: list[object] = [store.applied.index, values(store)]
    replay(store)
    found += [store.applied.index, values(store)]
    assert await store.check() == []
    await store.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "n1", ENTRIES, unapplied=2)


def test_a_restart_begins_with_complete_entries(path: Path) -> None:
    asyncio.run(fail(path, repair=True))
    assert asyncio.run(opened(path)) == [2, (b"2", b"2"), 4, (b"4", b"")]


def test_a_recovery_takes_all_of_the_log(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    asyncio.run(fail(path, repair=True))
    ran = ctl("recover", "apply", path, "--to", tmp_path / "new", "--yes", "--confirm", CLUSTER)
    assert ran.code == 0, ran.err
    first, content, *again = asyncio.run(opened(tmp_path / "new"))
    assert (content, again) == ((b"4", b""), [first, content])


def test_a_state_of_an_entry_is_that_of_the_entry(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    asyncio.run(fail(path, repair=True))
    for index, value in ((3, b"3"), (4, b"4")):
        file = tmp_path / f"{index}.rvsnap"
        ran = ctl("snapshot", "at", "--data-dir", path, "--index", index, "--file", file)
        assert ran.code == 0, ran.err
        ran = ctl("snapshot", "restore", file, "--data-dir", tmp_path / f"n{index}")
        assert ran.code == 0, ran.err
        assert asyncio.run(opened(tmp_path / f"n{index}"))[1] == (value, b"2" if index == 3 else b"")


def test_a_recovery_that_meets_the_damage_leaves_nothing(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    asyncio.run(fail(path, repair=False))
    ran = ctl("recover", "apply", path, "--to", tmp_path / "new", "--yes", "--confirm", CLUSTER)
    assert (ran.code, "orders/b" in ran.err) == (8, True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["n1"]
