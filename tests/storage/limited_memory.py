"""What `test_maps.py` runs in processes whose address space is limited."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ravel_node.storage.base import StoreFailedError
from ravel_node.storage.engine import WriteTxn
from ravel_node.storage.keys import STATE_DATABASES
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.lmdb_reader import EnvironmentReader
from ravel_node.storage.store import open_store
from tests.storage.support import NEVER, append, apply, bootstrap, contents

DATABASES = {"kv": False}


def leave(room: int) -> None:
    """Let this process take no more than `room` bytes of address space besides what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def values(first: int, end: int, size: int) -> Callable[[WriteTxn], None]:
    def job(txn: WriteTxn) -> None:
        for number in range(first, end):
            txn.put("kv", b"%06d" % number, b"v" * size)

    return job


async def opens_smaller(path: Path) -> None:
    events: list[tuple[str, Any]] = []
    leave(2 << 30)
    store = await open_store(
        path / "d", NEVER.__class__(state_map_bytes=1 << 40, observe=lambda event, fields: events.append((event, fields)))
    )
    await bootstrap(store)
    await append(store, 2, 2)
    apply(store, 2, {b"a": b"1"})
    await store.flush()
    assert contents(store) == [(b"a", b"1")]
    assert {event for event, _ in events} == {"store.map_smaller"}
    assert 64 << 20 <= store.db_map_bytes <= 2 << 30
    await store.close()
    print("as it should")


async def opens_with_the_largest_half_that_fits(path: Path) -> None:
    events: list[Any] = []
    engine = LmdbEngine(lambda event, fields: events.append(fields["map_size"]))
    leave(3 << 30)
    env = await engine.open(path, DATABASES, 1 << 40)
    assert env.stats().map_size == 2 << 30
    assert events == [2 << 30]
    await env.close()
    await engine.close()
    print("as it should")


async def grows_by_less(path: Path) -> None:
    events: list[str] = []
    engine = LmdbEngine(lambda event, fields: events.append(event))
    env = await engine.open(path, DATABASES, 64 << 20)
    await env.write(values(0, 10, 100))
    leave(40 << 20)
    for first in range(0, 700, 10):  # a transaction takes address space of its own
        await env.write(values(first, first + 10, 100_000))
    assert 70_000_000 < env.stats().map_size < 104 << 20, env.stats()
    assert set(events) == {"store.map_grown"}
    await env.close()
    await engine.close()
    print("as it should")


async def fails_where_nothing_is_left(path: Path) -> None:
    engine = LmdbEngine(lambda event, fields: None)
    env = await engine.open(path, DATABASES, 128 << 10)
    view = env.view()
    await env.write(values(0, 10, 100))
    view.renew()
    leave(64 << 10)
    with pytest.raises(StoreFailedError, match="address space"):
        await env.write(values(0, 20, 10_000))
    assert view.get("kv", b"000009") == b"v" * 100, "the map is still there to be read"
    assert env.stats().map_size == 128 << 10
    view.close()
    await env.close()
    await engine.close()
    print("as it should")


async def is_read_with_less(path: Path) -> None:
    """A directory that a daemon wrote with a large map, looked at where less is allowed."""
    (path / "state").mkdir()
    engine = LmdbEngine(lambda event, fields: None)
    env = await engine.open(path / "state", STATE_DATABASES, 1 << 40)
    await env.write(values(0, 10, 100))
    await env.close()
    await engine.close()
    leave(1 << 30)
    for owned in (False, True):
        reader = EnvironmentReader(path / "state", STATE_DATABASES, lambda owned=owned: owned)  # type: ignore[misc]
        assert reader.read(lambda txn: txn.get("kv", b"000009")) == b"v" * 100
    print("as it should")
